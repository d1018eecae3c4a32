"""Faults of a figure that matplotlib's own renderer can see: text outside, on text, on data."""

import itertools
from collections.abc import Callable, Iterator

import matplotlib.figure
import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.legend import Legend
from matplotlib.text import Annotation, Text
from matplotlib.transforms import Bbox

_SLACK = 1.0  # pixels
_CONTRAST = 4.5  # of text with white, WCAG AA


def faults_of(draw: Callable[[], bytes], monkeypatch) -> list[str]:
  """Draw a picture, and return the faults of its figure, a line each."""
  found = []

  def check(figure, *_, dpi: float, **__):
    figure.set_dpi(dpi)
    found.extend(faults(figure))

  with monkeypatch.context() as patch:
    patch.setattr(matplotlib.figure.Figure, 'savefig', check)
    draw()
  return found


def faults(figure) -> Iterator[str]:
  """Yield what is wrong with the places of texts, legends and data in a figure."""
  figure.canvas.draw()
  renderer = figure.canvas.get_renderer()
  texts = [text for text in _texts(figure) if text.get_text().strip() and text.get_visible()]
  boxes = {text: text.get_window_extent(renderer) for text in texts}
  for text, box in boxes.items():
    if not _contains(figure.bbox, box):
      yield f'{text.get_text()!r} is outside of the figure'
    if _contrast(text.get_color()) < _CONTRAST:
      yield f'{text.get_text()!r} has a low contrast'
    if isinstance(text, Annotation) and text.axes and not _contains(text.axes.bbox, box):
      yield f'{text.get_text()!r} is outside of its axes'
  for (one, box), (other, other_box) in itertools.combinations(boxes.items(), 2):
    if _overlap(box, other_box):
      yield f'{one.get_text()!r} and {other.get_text()!r} overlap'
  for legend in figure.findobj(Legend):
    box = legend.get_window_extent(renderer)
    if not _contains(figure.bbox, box):
      yield 'a legend is outside of the figure'
    for axis in figure.axes:
      if axis.axison and _overlap(box, axis.bbox):
        yield f'a legend covers the data of {axis.get_title()!r}'
  for axis in figure.axes:
    yield from _unseen(axis)


def _texts(figure) -> Iterator[Text]:
  """All texts that are drawn; matplotlib keeps tick labels that are not."""
  ticks = [label for axis in figure.axes for one in (axis.xaxis, axis.yaxis)
           for tick in one.get_major_ticks() + one.get_minor_ticks()
           for label in (tick.label1, tick.label2)]  # fmt: skip
  hidden = {id(label) for label in ticks}
  yield from (text for text in figure.findobj(Text) if id(text) not in hidden)
  for axis in figure.axes:
    for one in (axis.xaxis, axis.yaxis) if axis.axison else ():
      yield from (label for tick in one._update_ticks() for label in (tick.label1, tick.label2))


def _unseen(axis) -> Iterator[str]:
  """Yield data that are drawn and not seen; lines without a label belong to one that has one."""
  for line in axis.get_lines():
    points = np.column_stack([np.asarray(axis_, float) for axis_ in line.get_data()])
    if line.get_transform() != axis.transData:  # a line across the axes
      continue
    known = points[np.isfinite(points).all(1)]
    alone = len(known) == 1 and not str(line.get_label()).startswith('_')
    if alone and line.get_marker() in ('None', '', None, ' '):
      yield f'{line.get_label()!r} has one point and no marker'
    places = axis.transData.transform(known)
    if len(known) and not all(_contains(axis.bbox, Bbox([place, place])) for place in places):
      yield f'{line.get_label()!r} leaves the axes'


def _contains(outer: Bbox, inner: Bbox) -> bool:
  return (
    inner.x0 >= outer.x0 - _SLACK
    and inner.y0 >= outer.y0 - _SLACK
    and inner.x1 <= outer.x1 + _SLACK
    and inner.y1 <= outer.y1 + _SLACK
  )


def _overlap(one: Bbox, other: Bbox) -> bool:
  width = min(one.x1, other.x1) - max(one.x0, other.x0)
  height = min(one.y1, other.y1) - max(one.y0, other.y0)
  return width > _SLACK and height > _SLACK


def _contrast(color) -> float:
  """Return the contrast of a colour with white, by WCAG's formula."""
  channels = np.array(to_rgb(color))
  linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
  return 1.05 / (float(linear @ (0.2126, 0.7152, 0.0722)) + 0.05)
