"""Pictures of attention and of position embeddings (ViT paper, Figure 7), as PNG bytes."""

import math

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted_lines

_DPI = 110
_LETTERS_PER_INCH = 12  # of a title
_NAMED_HEADS = 20  # more of them share one colour
_PER_COLUMN = 16  # heads in a column of the legend
_TICKS = 16  # blocks that all get a tick

_TILES = (
  (2, 120),
  (8, 84),
  (14, 44),
  (1000, 30),
)  # number of tiles along a side -> pixels of each, about
_GAP = 4  # pixels between tiles
_LEFT, _RIGHT, _BELOW, _MARGIN, _LINE = 62, 118, 52, 14, 17  # pixels around the tiles
_LEAST = 260  # pixels, width of a picture
_LEAST_BAR, _MOST_BAR = 160, 400  # pixels, height of the scale of colours
_CHARACTER = 8.2  # width of a character of the title in pixels, at most about
_RED = (0.8, 0.1, 0.1)
_ALL_SHOWN, _SHOWN = 8, 7  # rows of patches that are all shown, and of more of them so many


def distances(distance: np.ndarray, title: str, image_size: int, uniform: float) -> bytes:
  """Draw the mean attention distance of each head against depth.

  Args:
    distance: pixels, (blocks, heads).
    title: title of the picture, of any number of lines.
    image_size: side of an image, pixels.
    uniform: distance of a head that looks everywhere alike, pixels: a dashed line.
  """
  plt = pyplot()
  blocks, heads = distance.shape
  columns = -(-min(heads, _NAMED_HEADS) // _PER_COLUMN)
  width = 6.4 + columns
  figure, axis = plt.subplots(figsize=(width, 4.8), layout='constrained')
  colors = plt.get_cmap('tab20')([*range(0, 20, 2), *range(1, 20, 2)])  # the pale ones last
  for head in range(heads):
    named = heads <= _NAMED_HEADS
    label = f'head {head}' if named else None if head else f'{heads} heads'
    color = colors[head] if named else colors[0]
    axis.plot(
      range(blocks), distance[:, head], 'o', color=color, markersize=5, label=label,
      markeredgecolor='0.25', markeredgewidth=0.4,
    )  # fmt: skip
  axis.axhline(uniform, color='0.35', linewidth=1, linestyle='--', label='uniform')
  axis.set_ylim(0, 1.06 * max(uniform, float(distance.max())) or 1)
  axis.set_xlim(-0.6, blocks - 0.4)
  axis.set_xticks(range(0, blocks, -(-blocks // _TICKS)))
  axis.set_xlabel('block')
  axis.set_ylabel(f'mean attention distance, pixels of {image_size}')
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5), ncols=columns)
  figure.suptitle(fitted_lines(title, int(_LETTERS_PER_INCH * width)), fontsize=9)
  return png_of(figure)


def class_token(maps: np.ndarray, title: str) -> bytes:
  """Draw the weights that the class token gives to the patches: a row per block, a tile per head.

  Args:
    maps: (blocks, heads, G, G), not negative; each is scaled by its largest weight.
    title: title of the picture, of any number of lines.
  """
  largest = maps.max((2, 3), keepdims=True)
  scaled = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)
  rows, columns = (list(range(size)) for size in maps.shape[:2])
  return _tiles(
    scaled,
    title,
    names=(rows, columns),
    axes=('block', 'head'),
    scale=(0, 1, 'share of the largest weight'),
  )


def position_similarity(cosines: np.ndarray, title: str) -> bytes:
  """Draw the similarity of position embeddings: a tile per patch, over the grid of all patches.

  Of a grid above 8×8, seven rows and columns of patches are shown, from edge to edge. Colours span
  from the least value to 1.

  Args:
    cosines: (G, G, G, G): [r, c] is that of the patch in row r and column c with all patches.
    title: title of the picture, of any number of lines.
  """
  side = len(cosines)
  count = side if side <= _ALL_SHOWN else _SHOWN
  shown = np.linspace(0, side - 1, count).round().astype(int)
  least = min(math.floor(10 * float(cosines.min(where=np.isfinite(cosines), initial=1))) / 10, 0.9)
  return _tiles(
    cosines[np.ix_(shown, shown)],
    title,
    names=(shown.tolist(), shown.tolist()),
    axes=('row of the patch', 'column of the patch'),
    scale=(least, 1, 'cosine similarity'),
  )


def _tiles(
  maps: np.ndarray,
  title: str,
  *,
  names: tuple[list[int], list[int]],
  axes: tuple[str, str],
  scale: tuple[float, float, str],
) -> bytes:
  """Draw (rows, columns, H, W) maps as tiles with a scale of colours; not finite is red.

  Args:
    names: of rows, and of columns.
    axes: labels of the vertical and the horizontal axis.
    scale: least and largest value, and its label.
  """
  from matplotlib.cm import ScalarMappable
  from matplotlib.colors import Normalize

  plt = pyplot()
  low, high, unit = scale
  colors = ScalarMappable(Normalize(low, high), plt.get_cmap('viridis').with_extremes(bad=_RED))
  canvas, tile = _canvas(np.asarray(colors.to_rgba(np.ma.masked_invalid(maps)))[..., :3])
  rows, columns = canvas.shape[:2]
  width = max(_LEFT + columns + _RIGHT, _LEAST)
  title = fitted_lines(title, int((width - 2 * _MARGIN) / _CHARACTER), 3)
  above = _LINE * (title.count('\n') + 1) + 2 * _MARGIN
  height = max(rows, _LEAST_BAR) + above + _BELOW
  figure = plt.figure(figsize=(width / _DPI, height / _DPI))
  figure.text(_MARGIN / width, 1 - _MARGIN / height, title, va='top', fontsize=9)
  bottom = height - above - rows
  # One pixel of the picture per pixel of the canvas: nothing is resampled.
  axis = figure.add_axes((_LEFT / width, bottom / height, columns / width, rows / height))
  axis.imshow(canvas, interpolation='nearest', aspect='auto', extent=(0, columns, rows, 0))
  axis.set_frame_on(False)
  for ticks, numbers in zip((axis.set_yticks, axis.set_xticks), names, strict=True):
    places = [tile / 2 + number * (tile + _GAP) for number in range(len(numbers))]
    ticks(places, [str(number) for number in numbers], fontsize=8)
  axis.tick_params(length=0)
  axis.set_ylabel(axes[0], fontsize=9)
  axis.set_xlabel(axes[1], fontsize=9)
  bar = min(max(rows, _LEAST_BAR), _MOST_BAR)
  place = (_LEFT + columns + 2 * _MARGIN, height - above - bar, _MARGIN, bar)
  bar_axis = figure.add_axes(tuple(np.divide(place, (width, height) * 2)))
  figure.colorbar(colors, cax=bar_axis)
  bar_axis.tick_params(labelsize=8)
  bar_axis.set_ylabel(unit, fontsize=9)
  return png_of(figure)


def _canvas(colors: np.ndarray) -> tuple[np.ndarray, int]:
  """(rows, columns, H, W, 3) -> the picture with white between tiles, and pixels of a tile."""
  rows, columns, side = colors.shape[:3]
  about = next(pixels for most, pixels in _TILES if max(rows, columns) <= most)
  factor = max(round(about / side), 1)
  tile = side * factor
  canvas = np.ones((rows * (tile + _GAP) - _GAP, columns * (tile + _GAP) - _GAP, 3))
  for row in range(rows):
    for column in range(columns):
      top, left = row * (tile + _GAP), column * (tile + _GAP)
      enlarged = colors[row, column].repeat(factor, axis=0).repeat(factor, axis=1)
      canvas[top : top + tile, left : left + tile] = enlarged
  return canvas, tile
