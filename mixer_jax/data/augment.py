"""Random changes of a training image, as functions of (image, generator)."""

import math

import cv2
import numpy as np

from mixer_jax.data.resize import bilinear

CROPS = ('tensorflow', 'uniform-area', 'square')
"""Kinds of crops: two inception crops, see `inception_crop`, and BiT's, see `square_crop`."""

DECODE_SCALES = ('none', 'auto')
"""'auto': a JPEG is decoded at 1/2, 1/4 or 1/8 of its size where its crop remains large enough: see
`reduction`."""

_ATTEMPTS = 100
"""Draws before the complete image is used: TensorFlow's default, which the authors keep."""


Box = tuple[int, int, int, int]
"""(top, left, height, width), pixels."""


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
  crop: str,
) -> np.ndarray:
  """Return a random crop of the image, resized to size × size (bilinear), uint8.

  Its share of the area is in `areas`, its aspect ratio (width over height) in `aspects`; 5–100 %
  and .75–1.33 in the authors' code (Szegedy et al. 2015). Where no draw fits, it is the complete
  image.

  Args:
    crop: 'tensorflow', as the authors' code: `draw_box`, then TensorFlow's resize, truncated.
      'uniform-area', as earlier versions: `draw_box_by_area`, and OpenCV's resize, which rounds.
      'square': the complete image, for `square_crop`.
  """
  height, width = image.shape[:2]
  box = BOXES[crop](height, width, rng, areas=areas, aspects=aspects)
  return resized(image, box, size, crop)


def square_crop(image: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
  """Return a random size × size part of a square image, every place equally likely.

  BiT's fine-tuning (Kolesnikov et al. 2020, section 3.3) takes it from the complete image, whose
  aspect ratio the resize does not keep.
  """
  most = len(image) - size
  top, left = rng.integers(most + 1, size=2).tolist()
  return image[top : top + size, left : left + size]


def resized(image: np.ndarray, box: Box, size: int, crop: str) -> np.ndarray:
  """Return a box of the image, resized to size × size by the method of a kind of crop.

  'square' is BiT's code, TensorFlow's bilinear resize without antialiasing. It keeps fractions of
  a level, which are rounded here, since images go to the devices as uint8. See `inception_crop`
  for the others.
  """
  top, left, height, width = box
  image = image[top : top + height, left : left + width]
  if crop == 'square':
    return np.rint(bilinear(image, size, size, size)).astype(np.uint8)
  if crop == 'tensorflow':
    return bilinear(image, size, size, size, np.uint8)
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def reduction(box: Box, size: int) -> int:
  """Return the largest of 1, 2, 4 and 8 by which a box can shrink and still be size × size."""
  return next(factor for factor in (8, 4, 2, 1) if factor == 1 or factor * size <= min(box[2:]))


def scaled(box: Box, old: tuple[int, int], new: tuple[int, int]) -> Box:
  """Return the same part of an image of another (height, width), rounded down to whole pixels."""
  top, left, height, width = box
  down, across = (lambda y: y * new[0] // old[0]), (lambda x: x * new[1] // old[1])
  return down(top), across(left), max(down(height), 1), max(across(width), 1)


def draw_box(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  areas: tuple[float, float],
  aspects: tuple[float, float],
) -> Box:
  """Draw a box as TensorFlow's `sample_distorted_bounding_box` does, by this generator.

  The aspect ratio is drawn uniformly, then the height, uniformly between the least and the largest
  that area and image allow. The area is therefore not uniform: small boxes are likelier. The last
  possible row and column are never the first of a smaller box.

  Returns:
    (top, left, height, width); the complete image if 100 draws do not fit.
  """
  if areas[0] == 1:
    return 0, 0, height, width
  least, most = (share * height * width for share in areas)
  for _ in range(_ATTEMPTS):
    # One call for all four draws: each would take as long as the rest of this loop.
    ratio, taller, down, right = rng.random(4).tolist()
    ratio = aspects[0] + ratio * (aspects[1] - aspects[0])
    limit = min(round(math.sqrt(most / ratio)), int((width + 0.5 - 1e-7) / ratio), height)
    h = min(round(math.sqrt(least / ratio)), limit)
    h += int(taller * (limit - h + 1))
    if h * round(h * ratio) < least:  # rounding alone may have left the bounds
      h += 1
    if h * round(h * ratio) > most:
      h -= 1
    w = round(h * ratio)
    if least <= h * w <= most and 0 < h <= height and 0 < w <= width:
      return int(down * (height - h)), int(right * (width - w)), h, w
  return 0, 0, height, width


def draw_box_by_area(
  height: int,
  width: int,
  rng: np.random.Generator,
  *,
  areas: tuple[float, float],
  aspects: tuple[float, float],
) -> Box:
  """Draw a box of uniform area and aspect ratio, as earlier versions did; see `draw_box`.

  Returns:
    (top, left, height, width); the complete image if ten draws do not fit.
  """
  for _ in range(10):
    area = rng.uniform(*areas) * height * width
    ratio = rng.uniform(*aspects)
    h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if 0 < h <= height and 0 < w <= width:
      return int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1)), h, w
  return 0, 0, height, width


def complete_box(height: int, width: int, *_, **__) -> Box:
  """Return the complete image; draws nothing."""
  return 0, 0, height, width


BOXES = {'tensorflow': draw_box, 'uniform-area': draw_box_by_area, 'square': complete_box}
"""Kind of crop -> function that draws the part of the image that is resized."""
