"""What a batch holds, for those who take batches and do not read any."""

from typing import Any

import numpy as np

Example = dict[str, Any]
"""One row of a `Batch`."""

Batch = dict[str, np.ndarray]
"""`image` (b, size, size, 3) levels in 0..255, uint8 or float32, and `label` (b,) int32; in
evaluation also `mask` (b,) bool, False where the batch was filled up or the image did not
decode, `index` (b,) int32, the example's place in the split, and `accepted` (b, classes) bool,
the labels that count as right, where the source has more than one."""

FILLER = -1
"""`index` of an example that only fills up the last batch."""
