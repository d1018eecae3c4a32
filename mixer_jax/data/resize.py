"""TensorFlow's bilinear resize without antialiasing, to the bit: that of the authors' networks.

Four old pixels decide a new one, whatever the scale. A cast to uint8 may follow, which cuts off:
so TensorFlow's order of 32-bit operations is followed, along rows first.
"""

import functools
from typing import Any

import cv2
import numpy as np

_STRIP = 56
"""New rows that are computed at a time, so that they fit the processor's cache."""


def bilinear(
  image: np.ndarray, height: int, width: int, size: int, level: Any = np.float32
) -> np.ndarray:
  """Resize to height × width and return only the central size × size pixels.

  Args:
    image: (H, W, 3) uint8; need not be contiguous.
    level: dtype of the result: np.float32, not rounded, or np.uint8, truncated.

  Returns:
    (size, size, 3) levels in 0..255.
  """
  above, below, down = _neighbours(image.shape[0], height, size)
  left, right, across = _neighbours(image.shape[1], width, size)
  across = np.repeat(across, 3)
  result = np.empty((size, size, 3), level)
  for start in range(0, size, _STRIP):
    strip = slice(start, start + _STRIP)
    rows, upper, lower = _used(image, above[strip], below[strip])
    # Pixels of four bytes are picked as integers, several times as fast as three bytes each.
    pixels = cv2.cvtColor(rows, cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]
    rows = _between(_columns(pixels, left), _columns(pixels, right), across)
    rows = _between(rows[upper], rows[lower], down[strip, None])
    result[strip] = rows.reshape(-1, size, 3)
  return result


def _used(image: np.ndarray, above: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, Any, Any]:
  """Return the rows of these indices, and where both kinds are among them."""
  first, last, count = above[0], below[-1] + 1, len(above)
  if last - first < 2 * count:
    return image[first:last], above - first, below - first
  return image[np.concatenate([above, below])], slice(count), slice(count, None)


def _columns(pixels: np.ndarray, places: np.ndarray) -> np.ndarray:
  """Return these columns of RGBA pixels, as rows of RGB levels."""
  picked = pixels.take(places, axis=1).view(np.uint8).reshape(len(pixels), len(places), 4)
  return cv2.cvtColor(picked, cv2.COLOR_RGBA2RGB).reshape(len(pixels), -1).astype(np.float32)


def _between(start: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
  """Return start + (end - start) · share, float32."""
  result = end - start
  result *= share
  result += start
  return result


@functools.lru_cache(maxsize=1024)
def _neighbours(old: int, new: int, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Return the two old pixels next to each new centre and the share of the upper, each (size,)."""
  scale = np.float32(old) / np.float32(new)
  first = (new - size) // 2
  centres = np.arange(first, first + size).astype(np.float32) + np.float32(0.5)
  places = centres * scale - np.float32(0.5)
  floor = np.floor(places)
  lower = np.maximum(floor, 0).astype(int)
  upper = np.minimum(np.ceil(places), old - 1).astype(int)
  return lower, upper, places - floor
