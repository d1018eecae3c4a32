"""Pictures of matrices between layers, as PNG bytes."""

import math
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted, fitted_lines

_MAX_NAMED = 60  # layers per axis that all get a name
_INCHES_PER_LAYER = 0.16
_LETTERS_PER_INCH = 12  # of a title
_NAME = 40  # letters of a layer
_RINGS = 'ring: the layer of the horizontal axis that is most like the one of its row'
_HATCHED = 'hatched: no CKA, as a layer is the same for all images'


class Panel(NamedTuple):
  """One matrix of `heatmaps`."""

  values: np.ndarray
  """(n_x, n_y) numbers in [0, 1] or NaN."""
  title: str
  axes: tuple[str, str]
  """Labels of the vertical and the horizontal axis."""
  marked: Sequence[int] | None
  """Marked column of each row; -1 for none."""


def heatmap(
  values: np.ndarray,
  names_x: Sequence[str],
  names_y: Sequence[str],
  title: str,
  axes: tuple[str, str],
  marked: Sequence[int] | None = None,
) -> bytes:
  """Draw a (n_x, n_y) matrix of numbers in [0, 1] or NaN; depth starts at the lower left.

  x goes up, y to the right; only some of very many layers are named. Colours span from the least
  value to 1. `marked`: for each row the column that gets a ring; -1 for none.
  """
  plt = pyplot()
  height = max(4.0, min(_INCHES_PER_LAYER * len(names_x), 16.0))
  width = max(4.0, min(_INCHES_PER_LAYER * len(names_y), 16.0))
  figure, axis = plt.subplots(figsize=(width + 3.2, height + 2.2), layout='constrained')
  drawn = _draw(axis, values, marked, _least([values]))
  figure.colorbar(drawn, ax=axis, fraction=0.04, label='CKA')
  for names, ticks, rotation in (
    (names_x, axis.set_yticks, 0),
    (names_y, axis.set_xticks, 90),
  ):
    places = range(0, len(names), -(-len(names) // _MAX_NAMED))
    labels = [fitted(names[i], _NAME) for i in places]
    ticks(list(places), labels, fontsize=7, rotation=rotation, parse_math=False)
  axis.set_ylabel(fitted(axes[0], int(8 * height), 2))
  axis.set_xlabel(fitted(axes[1], int(8 * width), 2))
  title = '\n'.join([title, *_notes([values], [marked])])
  figure.suptitle(fitted_lines(title, int(_LETTERS_PER_INCH * (width + 3))), fontsize=9)
  return png_of(figure)


def heatmaps(panels: Sequence[Panel], title: str, columns: int = 4) -> bytes:
  """Draw many matrices side by side with one colour scale, as `heatmap`; layers by number."""
  plt = pyplot()
  matrices = [panel.values for panel in panels]
  least = _least(matrices)
  columns = min(columns, len(panels))
  rows, width = -(-len(panels) // columns), max(2.9 * columns + 1.2, 5.5)
  figure, axes = plt.subplots(
    rows,
    columns,
    figsize=(width, 3.0 * rows + 1.0),
    layout='constrained',
    squeeze=False,
  )
  for axis, panel in zip(axes.flat, panels, strict=False):
    _draw(axis, panel.values, panel.marked, least)
    axis.set_title(fitted(panel.title, 34, 2), fontsize=8)
    axis.set_ylabel(fitted(panel.axes[0], 34, 2), fontsize=8)
    axis.set_xlabel(fitted(panel.axes[1], 34, 2), fontsize=8)
    for size, ticks in zip(panel.values.shape, (axis.set_yticks, axis.set_xticks), strict=True):
      places = list(range(0, size, -(-size // 8)))
      ticks(places, [str(place) for place in places], fontsize=7)
  for axis in axes.flat[len(panels) :]:
    axis.axis('off')
  figure.colorbar(axes[0][0].images[0], ax=axes, fraction=0.02, label='CKA')
  title = '\n'.join([title, *_notes(matrices, [panel.marked for panel in panels])])
  figure.suptitle(fitted_lines(title, int(_LETTERS_PER_INCH * width)), fontsize=9)
  return png_of(figure)


def _draw(axis, values: np.ndarray, marked: Sequence[int] | None, least: float):
  axis.patch.set(facecolor='0.9', edgecolor='0.55', hatch='////')  # seen where there is no value
  drawn = axis.imshow(values, origin='lower', vmin=least, vmax=1, cmap='magma', aspect='auto')
  rows = [row for row, column in enumerate(marked or ()) if column >= 0]
  columns = [column for column in marked or () if column >= 0]
  size = 60 / max(len(values) / 12, 1) ** 2
  # Two rings, so that one is visible on dark and on light.
  for color, line in (('black', 2.4), ('cyan', 1.2)):
    axis.scatter(columns, rows, s=size, facecolor='none', edgecolor=color, lw=line)
  return drawn


def _least(matrices: Iterable[np.ndarray]) -> float:
  """Return the lower end of the colours: the least value, down to a tenth, in [0, .9]."""
  known = [float(np.nanmin(values)) for values in matrices if not np.isnan(values).all()]
  return min(max(math.floor(10 * min(known, default=0)) / 10, 0), 0.9)


def _notes(matrices: Iterable[np.ndarray], marked: Iterable[Sequence[int] | None]) -> list[str]:
  """Explain what is drawn besides colours."""
  notes = [_RINGS] if any(max(columns or [-1]) >= 0 for columns in marked) else []
  return notes + ([_HATCHED] if any(np.isnan(values).any() for values in matrices) else [])
