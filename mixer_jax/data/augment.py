"""Random changes to a training image, each a function of (image, generator)."""

import cv2
import numpy as np


def flip(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """The image, mirrored left to right half of the time."""
  # A view with steps backwards would be copied later, and more slowly.
  return cv2.flip(image, 1) if rng.integers(2) else image


def inception_crop(
  image: np.ndarray,
  size: int,
  rng: np.random.Generator,
  *,
  areas: tuple[float, float],
  aspects: tuple[float, float],
) -> np.ndarray:
  """A random part of the image, resized to size × size (bilinear).

  Its area is a share in `areas` of the image's, its aspect ratio (width over height) in
  `aspects`; 5–100 % and 3/4–4/3 in the paper's code (Szegedy et al. 2015). Ten draws,
  then the whole image.
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
