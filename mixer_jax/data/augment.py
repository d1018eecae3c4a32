"""Random changes of a training image, as functions of (image, generator)."""

import cv2
import numpy as np


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Mirror the image left to right with probability 1/2."""
  # A NumPy view with negative strides would be copied later, which is slower.
  return cv2.flip(image, 1) if rng.integers(2) else image


def inception_crop(
  image: np.ndarray,
  size: int,
  rng: np.random.Generator,
  *,
  areas: tuple[float, float],
  aspects: tuple[float, float],
) -> np.ndarray:
  """Return a random crop of the image, resized to size × size (bilinear).

  Its share of the area is in `areas`, its aspect ratio (width over height) in `aspects`; 5–100 %
  and 3/4–4/3 in the paper's code (Szegedy et al. 2015). After ten draws that do not fit, the
  complete image is used.
  """
  height, width = image.shape[:2]
  for _ in range(10):
    area = rng.uniform(*areas) * height * width
    ratio = rng.uniform(*aspects)
    h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if 0 < h <= height and 0 < w <= width:
      top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
      image = image[top : top + h, left : left + w]
      break
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
