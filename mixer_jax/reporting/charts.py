"""Line charts as SVG inside a page: lines in it, its labels in HTML, so that any width is crisp."""

import dataclasses
import math
from collections.abc import Sequence

from mixer_jax.reporting.html import Html, tag
from mixer_jax.reporting.page_style import COLORS

Points = Sequence[tuple[float, float]]
"""(x, y), both finite, x ascending."""

_MOST_POINTS = 400
"""Of a line: more than pixels tell apart."""
_MOST_TICKS = 8
_SIDE = 1000  # of the drawing, in its own units
_DECADES = 1.3
"""Values above 0 that spread wider, as powers of ten, are drawn on a logarithmic axis."""


@dataclasses.dataclass(frozen=True)
class Series:
  """A line.

  Attributes:
    color: number of its run.
    dots: a point has a dot, where there are few.
    faint: a thin line in the background, as of single batches under evaluations.
  """

  label: str
  points: Points
  color: int
  dots: bool = False
  faint: bool = False


def color(number: int) -> str:
  """The class of a run's colour."""
  return f'c{number % COLORS}'


def line_chart(
  title: str,
  series: Sequence[Series],
  *,
  note: str = '',
  log: bool = False,
  marks: Sequence[tuple[float, int, str]] = (),
) -> Html:
  """All series over one another, against the step.

  Args:
    note: small, behind the title.
    log: the values may be drawn on a logarithmic axis, if all are above 0.
    marks: (step, color, what happened there), short lines at the bottom.
  """
  drawn = [dataclasses.replace(one, points=thinned(one.points)) for one in series if one.points]
  if not drawn:
    return Html()
  xs = [x for one in drawn for x, _ in one.points]
  ys = [y for one in drawn for _, y in one.points]
  low, high = min(xs), max(xs)
  log = log and min(ys) > 0 and math.log10(max(ys) / min(ys)) > _DECADES
  scale = math.log10 if log else float
  bottom, top = _padded(min(map(scale, ys)), max(map(scale, ys)))
  x_at = lambda x: (x - low) / (high - low) if high > low else 0.5
  y_at = lambda y: (scale(y) - bottom) / (top - bottom)
  ticks_x = ticks(low, high, 5)
  ticks_y = _log_ticks(bottom, top) if log else ticks(bottom, top, 5)
  # The later are on top: what is faint, and longer, comes first.
  lines = [_line(one, x_at, y_at) for one in sorted(drawn, key=lambda one: not one.faint)]
  told = '; '.join(
    f'{one.label} {number(one.points[-1][1])} at step {one.points[-1][0]:,.0f}'
    for one in drawn
    if not one.faint
  )
  svg = tag(
    'svg',
    tag('title', f'{title}: {told}'),
    (_rule(_SIDE * (1 - y_at(y))) for y in ticks_y),
    lines,
    (_mark(_SIDE * x_at(x), place, what) for x, place, what in marks if low <= x <= high),
    viewBox=f'0 0 {_SIDE} {_SIDE}',
    preserveAspectRatio='none',
    role='img',
  )
  area = tag('div', svg, class_='area', tabindex=0, data_range=f'{low:g} {high:.12g}')
  labels_y = (tag('span', number(y), style=f'bottom:{100 * y_at(y):.2f}%') for y in ticks_y)
  labels_x = (tag('span', number(x), style=f'left:{100 * x_at(x):.2f}%') for x in ticks_x)
  plot = tag(
    'div',
    tag('div', labels_y, class_='ys', aria_hidden='true'),
    area,
    tag('div', labels_x, class_='xs', aria_hidden='true'),
    class_='plot',
  )
  caption = tag('figcaption', title, ' ', tag('small', note) if note else None)
  return tag('figure', caption, plot, class_='chart')


def legend(names: Sequence[str]) -> Html:
  """The names of runs behind their colours."""
  items = (
    tag('li', tag('span', name, class_=f'run {color(place)}')) for place, name in enumerate(names)
  )
  return tag('ul', items, class_='legend')


def thinned(points: Points, most: int = _MOST_POINTS) -> Points:
  """At most about so many points: of each of equal stretches the lowest and the highest.

  The first and the last stay. So no peak is lost, and a band of noise keeps its width.
  """
  if len(points) <= most:
    return points
  kept = {0, len(points) - 1}
  parts = most // 2 - 1
  for part in range(parts):
    stretch = range(part * len(points) // parts, (part + 1) * len(points) // parts)
    kept |= {min(stretch, key=lambda i: points[i][1]), max(stretch, key=lambda i: points[i][1])}
  return [points[i] for i in sorted(kept)]


def ticks(low: float, high: float, about: int) -> list[float]:
  """Round numbers in [low, high], about so many: multiples of 1, 2 or 5 times a power of ten."""
  if not high > low:
    return [low]
  rough = (high - low) / about
  power = 10.0 ** math.floor(math.log10(rough))
  step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [step * place for place in range(first, last + 1)]


def _log_ticks(bottom: float, top: float) -> list[float]:
  decades = range(math.floor(bottom), math.ceil(top) + 1)
  for factors in ((1, 2, 5), (1, 3), (1,)):
    found = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [value for value in found if bottom <= math.log10(value) <= top]
    if len(inside) <= _MOST_TICKS:
      return inside
  return inside[:: -(-len(inside) // _MOST_TICKS)]


def number(value: float) -> str:
  """'1,234', '0.0312', '2e-05': four digits at most, unless it is a whole number."""
  if not math.isfinite(value):
    return str(value)
  if float(value).is_integer() and abs(value) < 1e15:
    return f'{value:,.0f}'
  return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def _padded(low: float, high: float) -> tuple[float, float]:
  around = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
  return low - around, high + around


def _line(one: Series, x_at, y_at) -> Html:
  places = [(_SIDE * x_at(x), _SIDE * (1 - y_at(y))) for x, y in one.points]
  dash = one.color // COLORS % 3
  names = ['curve', color(one.color), *(['faint'] if one.faint else [])]
  names += [f'd{dash}'] if dash else []
  path = 'M' + 'L'.join(f'{x:.1f} {y:.1f}' for x, y in places)
  values = ' '.join(f'{x:.12g} {y:.5g}' for x, y in one.points)
  line = tag('path', d=path, class_=' '.join(names), data_label=one.label, data_points=values)
  if not one.dots and len(places) > 1:
    return line
  if len(places) > 60:
    return line
  # Lines of no length with round ends: dots that stay round, however the drawing is stretched.
  dots = tag('path', d=''.join(f'M{x:.1f} {y:.1f}h0' for x, y in places),
             class_=f'dots {color(one.color)}')  # fmt: skip
  return Html(line + dots)


def _rule(y: float) -> Html:
  return tag('line', x1=0, x2=_SIDE, y1=f'{y:.1f}', y2=f'{y:.1f}', class_='grid')


def _mark(x: float, number: int, what: str) -> Html:
  ends = {'x1': f'{x:.1f}', 'x2': f'{x:.1f}', 'y1': _SIDE - 60, 'y2': _SIDE}
  return tag('line', tag('title', what), **ends, class_=f'mark {color(number)}')
