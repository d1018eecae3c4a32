"""Random changes to a training image, each a function of (image, generator)."""

import numpy as np


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The image, mirrored left to right half of the time."""
  return image[:, ::-1] if rng.integers(2) else image
