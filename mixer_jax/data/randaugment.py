"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719), as in the code of the Mixer's authors.

The reference is google-research/big_vision, `big_vision/pp/autoaugment.py`, a fork of
EfficientNet's. On images of 224 × 224 its behaviour differs from its names in several ways:

- The largest level is 10, yet the paper trains with 10, 15 and 20, beyond the documented range.
  Two arguments become uint8 in TensorFlow and wrap modulo 256. Solarize at 10 and 20 inverts every
  level, at 15 those from 128 on. (Also reported in big_vision's issue 110.)
- A larger magnitude is not always a stronger change: Posterize keeps 4 bits at 10, 6 at 15
  and all 8 at 20.
- Contrast's grey is not the mean of the image, but its number of pixels / 256, at most 255:
  196 for any image of 224 × 224.
- A probability is drawn for every operation but not used: the operation is always applied.
- Translations and cutouts are in pixels, independent of the size of the image.
- Shears keep the first row or column in place, not the centre.
- Levels are truncated, not rounded, and computed in float32: hence the float32 arithmetic below,
  in the same order. Pillow's results differ by one level in places. TensorFlow with oneDNN, its
  present default on x86, rounds Sharpness otherwise: its levels are these with oneDNN off.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import cv2
import numpy as np

GREY = 128
"""Level of empty areas in every channel."""

Image = np.ndarray
"""(H, W, 3) uint8, RGB; any H, W from 1 to 32,766."""


@dataclasses.dataclass(frozen=True)
class Operation:
  """One kind of change: a function of (image, level, generator) that returns a new image.

  The level is the magnitude, 0 or more without an upper bound; 10 is the authors' largest.
  """

  change: Callable[[Image, float, np.random.Generator], Image]
  signed: bool = False
  """True if a negative level is the same change in the other direction."""

  def __call__(self, image: Image, level: float, rng: np.random.Generator) -> Image:
    return self.change(np.ascontiguousarray(image), level, rng)


def randaugment(image: Image, rng: np.random.Generator, *, layers: int, magnitude: float) -> Image:
  """Apply `layers` operations, each drawn from all 16, at one magnitude.

  Args:
    image: (H, W, 3) uint8; not modified.
    rng: decides the operations, their direction, and Cutout's position.
    layers: number of operations; 2 in the paper.
    magnitude: their level; 10, 15 and 20 in the paper (Table 4). 0 is not "no change": Solarize
      then inverts the image and Posterize leaves one bit.
  """
  for _ in range(layers):
    operation = _DRAWN[rng.integers(len(_DRAWN))]
    backwards = operation.signed and rng.integers(2)
    image = operation(image, -magnitude if backwards else magnitude, rng)
  return image


def _auto_contrast(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Stretch each channel to 0..255."""
  ends = image.min(0).min(0), image.max(0).max(0)
  lows, highs = (levels.astype(np.float32) for levels in ends)
  tables = np.tile(_LEVELS[:, None].astype(np.float32), 3)
  for channel, (low, high) in enumerate(zip(lows, highs, strict=True)):
    if low < high:
      scale = np.float32(255) / (high - low)
      tables[:, channel] = _truncated(tables[:, channel] * scale + -low * scale)
  return _look_up(image, tables)


def _equalize(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Spread the levels of each channel so that all are about equally frequent, as Pillow."""
  tables = np.tile(_LEVELS[:, None], 3)
  for channel in range(3):
    counts = cv2.calcHist([image], [channel], None, [256], [0, 256]).ravel().astype(np.int64)
    step = (counts.sum() - counts[counts.nonzero()[0][-1]]) // 255
    if step:
      below = np.cumsum(counts) - counts
      tables[:, channel] = np.minimum((below + step // 2) // step, 255)
  return _look_up(image, tables)


def _invert(image: Image, level: float, rng: np.random.Generator) -> Image:
  return 255 - image


def _posterize(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Keep only the highest bits: 4 at level 10, more at higher levels."""
  # In TensorFlow's uint8 a negative shift wraps to one above 7, and shifts are limited to 7.
  # So at least one bit is kept, and exactly one from level 22.5 on.
  shift = min((8 - int(level / 10 * 4)) % 256, 7)
  return image & np.uint8(256 - (1 << shift))


def _solarize(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Invert levels from a threshold on."""
  threshold = int(level / 10 * 256) % 256  # TensorFlow's uint8 wraps
  return image ^ -(image >= threshold).view(np.uint8)  # -1 is 255


def _solarize_add(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Raise levels below 128, by 110 at level 10."""
  dark = -(image < 128).view(np.uint8)  # -1 is 255
  return cv2.add(image, dark & np.uint8(min(int(level / 10 * 110), 255)))  # at most 255


def _color(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move away from the grey version, or towards it below level 5."""
  # TensorFlow's grey: in [0, 1], with weights that add up to .9999, then times 255.5.
  grey, green, blue = map(cv2.LUT, cv2.split(image), _SHARES_OF_GREY)
  grey += green
  grey += blue
  grey *= np.float32(255.5)
  return _blend(cv2.cvtColor(grey.astype(np.uint8), cv2.COLOR_GRAY2RGB), image, level)


def _contrast(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move away from one grey, or towards it below level 5: (H · W) / 256, at most 255.

  The mean of the image is intended, but the authors' code sums the counts of a histogram instead
  of the levels.
  """
  grey = np.uint8(min(image.shape[0] * image.shape[1] // 256, 255))
  return _look_up(image, _blend(grey, _LEVELS, level))


def _brightness(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move away from black, or towards it below level 5."""
  return _look_up(image, _blend(np.uint8(0), _LEVELS, level))


def _sharpness(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move away from the smoothed version, or towards it below level 5; keep the border."""
  height, width = image.shape[:2]
  out = image.copy()
  if min(height, width) > 2:
    # Weights are 1/13 and, in the centre, 5/13. Whether a float32 sum reaches an exact integer
    # depends on its order, so the order is that of TensorFlow's kernel. (Its oneDNN kernel fuses
    # product and sum: results differ by 1 level.)
    for top in range(0, height - 2, _STRIP):
      part = image[top : top + _STRIP + 2]
      around = part * (np.float32(1) / np.float32(13))
      centre = part[1:-1, 1:-1] * (np.float32(5) / np.float32(13))
      smooth = around[:-2, :-2] + around[:-2, 1:-1]
      for others in (around[:-2, 2:], around[1:-1, :-2], centre, around[1:-1, 2:]):
        smooth += others
      for others in (around[2:, :-2], around[2:, 1:-1], around[2:, 2:]):
        smooth += others
      smooth = _blend(smooth.astype(np.uint8), part[1:-1, 1:-1], level)
      out[top + 1 : top + 1 + len(smooth), 1:-1] = smooth
  return out


def _rotate(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Rotate about the centre, counter-clockwise by 30 degrees at level 10."""
  height, width = image.shape[:2]
  angle = float(np.float32(level / 10 * 30) * np.float32(math.pi / 180))
  sin, cos = np.float32(math.sin(angle)), np.float32(math.cos(angle))
  right, bottom = np.float32(width - 1), np.float32(height - 1)
  x = (right - (cos * right - sin * bottom)) / np.float32(2)
  y = (bottom - (sin * right + cos * bottom)) / np.float32(2)
  return _move(image, ((cos, -sin, x), (sin, cos, y)))


def _shear_x(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move rows left by .3 of their distance from the first at level 10."""
  return _move(image, ((1, level / 10 * 0.3, 0), (0, 1, 0)))


def _shear_y(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move columns up by .3 of their distance from the first at level 10."""
  return _move(image, ((1, 0, 0), (level / 10 * 0.3, 1, 0)))


def _translate_x(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move left by 100 pixels at level 10."""
  return _move(image, ((1, 0, level / 10 * 100), (0, 1, 0)))


def _translate_y(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Move up by 100 pixels at level 10."""
  return _move(image, ((1, 0, 0), (0, 1, level / 10 * 100)))


def _cutout(image: Image, level: float, rng: np.random.Generator) -> Image:
  """Draw a grey square around a random pixel, 80 × 80 at level 10, clipped at the border."""
  half = int(level / 10 * 40)
  height, width = image.shape[:2]
  y, x = rng.integers(height), rng.integers(width)
  out = image.copy()
  out[max(y - half, 0) : y + half, max(x - half, 0) : x + half] = GREY
  return out


def _blend(other: np.ndarray | np.uint8, image: np.ndarray, level: float) -> np.ndarray:
  """Extrapolate from `other` (level -.56) through the image (level 5): uint8, broadcast."""
  levels = np.subtract(image, other, dtype=np.float32)
  levels *= np.float32(level / 10 * 1.8 + 0.1)
  levels += other
  return _truncated(levels)


def _truncated(levels: np.ndarray) -> np.ndarray:
  return np.clip(levels, 0, 255, out=levels).astype(np.uint8)


def _look_up(image: Image, tables: np.ndarray) -> Image:
  """Replace every level, by `tables` (256,) or (256, 3) for one table per channel."""
  return cv2.LUT(image, tables.astype(np.uint8).reshape(256, 1, -1))


_Number = float | np.floating
_Matrix = tuple[tuple[_Number, _Number, _Number], tuple[_Number, _Number, _Number]]


def _move(image: Image, matrix: _Matrix) -> Image:
  """Fill pixel (x, y) with the one nearest to (x', y') = matrix · (x, y, 1), or grey.

  Integer coordinates are centres of pixels; half-way positions belong to the outer pixel.
  """
  places = _places(*image.shape[:2], matrix)
  nothing = np.empty(0, np.int16)
  return cv2.remap(
    image, places, nothing, cv2.INTER_NEAREST, None, cv2.BORDER_CONSTANT, (GREY, GREY, GREY)
  )


# A run has one size and one magnitude, so 5 operations in 2 directions.
@functools.lru_cache(maxsize=16)
def _places(height: int, width: int, matrix: _Matrix) -> np.ndarray:
  """Return (height, width, 2) int16: x and y of the source of each pixel."""
  x = np.arange(width, dtype=np.float32)
  y = np.arange(height, dtype=np.float32)[:, None]
  places = np.empty((height, width, 2), np.int16)
  for axis, row in enumerate(matrix):
    a, b, c = (np.float32(value) for value in row)
    place = (x * a + y * b) + c
    # As C's round: half-way cases go away from 0. Adds the float below .5, as .49999997 + .5 is 1.
    place += np.copysign(np.nextafter(np.float32(0.5), np.float32(0)), place)
    places[..., axis] = np.clip(place, -1, (width, height)[axis])
  places.flags.writeable = False
  return places


_LEVELS = np.arange(256)
_SHARES_OF_GREY = np.array([[0.2989], [0.587], [0.114]], np.float32) * (
  _LEVELS.astype(np.float32) * np.float32(1 / 255)
)
_STRIP = 75
"""Rows that are smoothed at a time, so that they fit the processor's cache."""

OPERATIONS: dict[str, Operation] = {
  'AutoContrast': Operation(_auto_contrast),
  'Equalize': Operation(_equalize),
  'Invert': Operation(_invert),
  'Rotate': Operation(_rotate, signed=True),
  'Posterize': Operation(_posterize),
  'Solarize': Operation(_solarize),
  'Color': Operation(_color),
  'Contrast': Operation(_contrast),
  'Brightness': Operation(_brightness),
  'Sharpness': Operation(_sharpness),
  'ShearX': Operation(_shear_x, signed=True),
  'ShearY': Operation(_shear_y, signed=True),
  'TranslateX': Operation(_translate_x, signed=True),
  'TranslateY': Operation(_translate_y, signed=True),
  'Cutout': Operation(_cutout),
  'SolarizeAdd': Operation(_solarize_add),
}
"""All 16, by the names of the authors' code. AutoContrast, Equalize and Invert have no level."""

_DRAWN = tuple(OPERATIONS.values())
