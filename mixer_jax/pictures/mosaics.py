"""Mosaics of many small pictures of weights, as PNG bytes."""

import math
from collections.abc import Iterable, Mapping

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted, fitted_lines

_TILE, _LARGE_TILE, _MANY = 28, 44, 200  # pixels per side, about; more than _MANY are smaller
_IN_PAIR, _BETWEEN = 2, 8  # pixels between tiles
_MARGIN, _LINE = 20, 16
_MIN_WIDTH = 240  # of a panel with its title
_CHARACTER = 9.2  # width of a character of the title in pixels, at most about
_SMALL_CHARACTER = 7.4  # likewise of the titles of panels
_MAX_TITLE = 120  # characters of a line of the title
_DPI = 110
_RED = (0.8, 0.1, 0.1)


def mosaics(panels: Mapping[str, np.ndarray], title: str, *, paired: bool) -> bytes:
  """Draw panels side by side, each with its pictures row by row.

  Each picture is scaled by its largest magnitude, which becomes black or white; zero is mid-grey,
  and what is not finite is red.

  Args:
    panels: title, of any number of lines -> (N, H, W), drawn in grey, or (N, H, W, 3) in colour.
    title: title of the picture, of any number of lines.
    paired: draw neighbours as pairs.
  """
  drawn = [_mosaic(pictures, paired) for pictures in panels.values()]
  widths = [max(image.shape[1], _MIN_WIDTH) for image in drawn]
  names = [
    fitted_lines(name, int(room / _SMALL_CHARACTER))
    for name, room in zip(panels, widths, strict=True)
  ]
  title = '\n'.join(fitted(line, _MAX_TITLE) for line in title.split('\n'))
  width = sum(widths) + _MARGIN * (len(widths) + 1)
  width = max(width, round(2 * _MARGIN + _CHARACTER * max(map(len, title.split('\n')))))
  head = round(1.25 * _LINE) * _lines([title]) + _LINE * _lines(names) + 2 * _MARGIN
  height = max(image.shape[0] for image in drawn) + head + _MARGIN
  plt = pyplot()
  figure = plt.figure(figsize=(width / _DPI, height / _DPI))
  figure.text(_MARGIN / width, 1 - 12 / height, title, va='top', fontsize=10)
  left = _MARGIN
  for name, image, room in zip(names, drawn, widths, strict=True):
    rows, columns = image.shape[:2]
    top = height - head
    # One pixel of the picture per pixel of the mosaic: nothing is resampled.
    place = (left / width, (top - rows) / height, columns / width, rows / height)
    axis = figure.add_axes(place)
    axis.imshow(image, interpolation='nearest', aspect='auto')
    axis.axis('off')
    figure.text(left / width, (top + 6) / height, name, fontsize=8, va='bottom')
    left += room + _MARGIN
  return png_of(figure)


def _lines(texts: Iterable[str]) -> int:
  return max(text.count('\n') + 1 for text in texts)


def _mosaic(pictures: np.ndarray, paired: bool) -> np.ndarray:
  """(N, H, W[, 3]) -> (height, width, 3) in [0, 1], white between the tiles."""
  count, side = len(pictures), pictures.shape[1]
  group = 2 if paired else 1
  groups = -(-count // group)
  # Each panel is about 1.5 times as high as wide.
  columns = max(round(math.sqrt(groups / (1.5 * group))), 1)
  factor = max(round((_TILE if count > _MANY else _LARGE_TILE) / side), 1)
  tile = side * factor
  wide = group * tile + (group - 1) * _IN_PAIR
  lines = -(-groups // columns)
  canvas = np.ones(
    (lines * (tile + _BETWEEN) - _BETWEEN, columns * (wide + _BETWEEN) - _BETWEEN, 3)
  )
  for number, picture in enumerate(pictures):
    line, place = divmod(number // group, columns)
    top = line * (tile + _BETWEEN)
    left = place * (wide + _BETWEEN) + number % group * (tile + _IN_PAIR)
    canvas[top : top + tile, left : left + tile] = _enlarged(_levels(picture), factor)
  return canvas


def _levels(picture: np.ndarray) -> np.ndarray:
  """Weights -> (H, W, 3) in [0, 1]; 0 becomes 1/2."""
  known = np.isfinite(picture)
  extreme = np.abs(picture, where=known, out=np.zeros_like(picture)).max()
  levels = 0.5 + 0.5 * np.where(known, picture, 0) / (extreme if extreme > 0 else 1)
  levels = levels if levels.ndim == 3 else np.repeat(levels[..., None], 3, axis=-1)
  levels[~known if known.ndim == 2 else ~known.all(-1)] = _RED
  return levels


def _enlarged(picture: np.ndarray, factor: int) -> np.ndarray:
  return picture.repeat(factor, axis=0).repeat(factor, axis=1)
