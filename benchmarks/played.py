"""A host with many cores, played: training images are made by a sleep.

Worker processes import this module with the records, so it is in a file of its own.
"""

import time
from collections.abc import Sequence
from typing import SupportsIndex

import numpy as np


class PlayedRecords(Sequence):
  """Records whose images take `seconds` to make, without Python's lock; they are read as ever.

  Wherever they are, in this process or in a worker, the package does not decode any more.
  """

  def __init__(self, records: Sequence, image_size: int, seconds: float):
    self._state = records, image_size, seconds
    _play(image_size, seconds)

  def __reduce__(self):
    return PlayedRecords, self._state

  def __len__(self) -> int:
    return len(self._state[0])

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._state[0][index.__index__()]


def _play(image_size: int, seconds: float) -> None:
  image = np.zeros((image_size, image_size, 3), np.uint8)

  def slept(*_, **__) -> np.ndarray:
    time.sleep(seconds)
    return image

  try:
    from mixer_jax.data import examples, limits
  except ImportError:  # the package before there were workers
    from mixer_jax.data import pipeline

    pipeline.__dict__.update(decode=slept, augmented=lambda image, *_: image)
    return

  def training_image(data: bytes, config, *_) -> np.ndarray:
    with limits.admitted(data, config.max_megapixels):
      return slept()

  examples.training_image = training_image
