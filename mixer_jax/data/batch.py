"""Types of batches, for code that takes batches and reads no data."""

from typing import Any

import numpy as np

Example = dict[str, Any]
"""One row of a `Batch`."""

Batch = dict[str, np.ndarray]
"""`image` (b, size, size, 3) levels in 0..255, uint8 or float32, and `label` (b,) int32; in
evaluation also `mask` (b,) bool, False for padding and images that did not decode, `index` (b,)
int32, the example's place in the split, and `accepted` (b, classes) bool, the labels that count as
correct, if the source has several, and `unread` (b,) bool, True for images that could not be read,
if the source may lack some."""

FILLER = -1
"""`index` of padding in the last batch."""
