"""TensorFlow's bilinear resize without antialiasing, to the bit: that of the authors' networks.

Four old pixels decide a new one, whatever the scale. A cast to uint8 may follow, which cuts off:
so TensorFlow's order of 32-bit operations is followed, along rows first.
"""

import functools
import math
import threading
from typing import Any

import cv2
import numpy as np

_STRIP = 112
"""New rows that are computed at a time: few fit the processor's cache, many take fewer calls."""
_KEPT = 2**22
"""Bytes of the largest array that a thread keeps for its next image."""


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
  across, down = np.repeat(across, 3), down[:, None]
  result = np.empty((size, size, 3), level)
  new_rows = result.reshape(size, -1)
  for start in range(0, size, _STRIP):
    strip = slice(start, start + _STRIP)
    rows, upper, lower = _used(image, above[strip], below[strip])
    columns = cv2.transpose(rows, dst=_array('columns', (rows.shape[1], len(rows), 3), np.uint8))
    first, second = _levels(columns, left, 'first'), _levels(columns, right, 'second')
    second -= first
    second *= across
    second += first
    first, second = _rows(second, upper, 'first'), _rows(second, lower, 'lower')
    second -= first
    second *= down[strip]
    second += first
    new_rows[strip] = second
  return result


def _used(image: np.ndarray, above: np.ndarray, below: np.ndarray) -> tuple[np.ndarray, Any, Any]:
  """Return the rows of these indices, and where both kinds are among them."""
  first, last, count = above[0], below[-1] + 1, len(above)
  if last - first < 2 * count:
    return image[first:last], above - first, below - first
  return image[np.concatenate([above, below])], slice(count), slice(count, None)


def _levels(columns: np.ndarray, places: np.ndarray, name: str) -> np.ndarray:
  """Return the levels of these columns as rows, float32: (height, 3 · len(places))."""
  # Columns are picked from the transposed image, in which each is in one piece.
  count, height = len(places), columns.shape[1]
  picked = _array('picked', (count, height * 3), np.uint8)
  columns.reshape(-1, height * 3).take(places, axis=0, out=picked, mode='wrap')
  rows = _array('rows', (height, count, 3), np.uint8)
  cv2.transpose(picked.reshape(count, height, 3), dst=rows)
  levels = _array(name, (height, count * 3), np.float32)
  levels[...] = rows.reshape(height, -1)
  return levels


def _rows(levels: np.ndarray, places: Any, name: str) -> np.ndarray:
  """Return the rows at these places, an array of indices or a slice."""
  if isinstance(places, slice):
    return levels[places]
  rows = _array(name, (len(places), levels.shape[1]), np.float32)
  return levels.take(places, axis=0, out=rows, mode='wrap')


_kept = threading.local()


def _array(name: str, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
  """Return this thread's array of that name with any content; a new one costs page faults."""
  size = math.prod(shape)
  array = getattr(_kept, name, None)
  if array is None or array.size < size:
    array = np.empty(size, dtype)
    if array.nbytes <= _KEPT:
      setattr(_kept, name, array)
  return array[:size].reshape(shape)


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
