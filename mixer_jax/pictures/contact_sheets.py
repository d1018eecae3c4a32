"""Contact sheets: many small images in rows, as PNG bytes."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from PIL import Image

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted

Row = tuple[str, Sequence[tuple[str, np.ndarray]]]
"""A title, and cells of (caption, (H, W, 3) uint8 image of any size)."""

_DOTS = 110  # per inch, as in `png_of`
_CELL = 128  # pixels, width and height of a cell
_GAP = 6
_TITLE = 104  # width of row titles
_TITLE_LETTERS = 14  # of a line of a row's title
_CAPTION_LETTERS = 18
_BOLD = 12  # width of a character of a heading in pixels, at most about
_CAPTION = 18  # height of a line of captions
_HEADING = 34


@dataclasses.dataclass(frozen=True)
class Band:
  """Blocks of rows side by side, under a heading."""

  heading: str
  blocks: Sequence[Sequence[Row]]


def contact_sheet(bands: Sequence[Band]) -> bytes:
  """Draw all bands, one below the other.

  A caption is left out if the cell above has the same one.
  """
  width = max(sum(map(_width, band.blocks)) for band in bands) + _GAP
  height = sum(_HEADING + max(map(_height, band.blocks)) for band in bands) + _GAP
  canvas = np.full((height, width, 3), 255, np.uint8)
  plt = pyplot()
  figure = plt.figure(figsize=(width / _DOTS, height / _DOTS))
  axis = figure.add_axes((0, 0, 1, 1))
  axis.axis('off')
  top = 0
  for band in bands:
    heading = fitted(band.heading, width // _BOLD)
    axis.text(_GAP, top + _HEADING / 2, heading, fontsize=10, weight='bold', va='center')
    left = 0
    for block in band.blocks:
      _draw(axis, canvas, block, left, top + _HEADING)
      left += _width(block)
    top += _HEADING + max(map(_height, band.blocks))
  axis.imshow(canvas, interpolation='nearest', extent=(0, width, height, 0), zorder=-1)
  return png_of(figure)


def _draw(axis, canvas: np.ndarray, block: Sequence[Row], left: int, top: int) -> None:
  for row, captions in zip(block, _captions(block), strict=True):
    top += _CAPTION if any(captions) else 0
    title, cells = row
    title = fitted(title, _TITLE_LETTERS, 3)
    axis.text(left + _TITLE - _GAP, top + _CELL / 2, title, fontsize=8, ha='right', va='center')
    for place, ((_, image), caption) in enumerate(zip(cells, captions, strict=True)):
      small = _fitted(image)
      x, y = left + _TITLE + place * (_CELL + _GAP), top
      # Centred in its cell.
      y0, x0 = y + (_CELL - small.shape[0]) // 2, x + (_CELL - small.shape[1]) // 2
      canvas[y0 : y0 + small.shape[0], x0 : x0 + small.shape[1]] = small
      caption = fitted(caption, _CAPTION_LETTERS)
      axis.text(x + _CELL / 2, y - 4, caption, fontsize=7, ha='center', va='baseline')
    top += _CELL + _GAP


def _captions(block: Sequence[Row]) -> list[list[str]]:
  shown, above = [], []
  for _, cells in block:
    own = [caption for caption, _ in cells]
    above += [''] * (len(own) - len(above))
    shown.append(['' if caption == old else caption for caption, old in zip(own, above)])  # noqa: B905
    above = own + above[len(own) :]
  return shown


def _width(block: Sequence[Row]) -> int:
  return _TITLE + max(len(cells) for _, cells in block) * (_CELL + _GAP)


def _height(block: Sequence[Row]) -> int:
  return len(block) * (_CELL + _GAP) + _CAPTION * sum(map(any, _captions(block)))


def _fitted(image: np.ndarray) -> np.ndarray:
  """Resize to the size of a cell; enlarged images keep sharp pixels."""
  height, width = image.shape[:2]
  scale = _CELL / max(height, width)
  size = max(round(width * scale), 1), max(round(height * scale), 1)
  how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
  return np.asarray(Image.fromarray(image).resize(size, how))
