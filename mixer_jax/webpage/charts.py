"""Line charts for a page: lines in SVG, labels in HTML, so that they are sharp at any width."""

import dataclasses
import itertools
import math
import statistics
from collections.abc import Sequence

from mixer_jax.webpage.html import Html, tag
from mixer_jax.webpage.page_style import COLORS

Points = Sequence[tuple[float, float]]
"""(x, y), both finite, x ascending."""

_MAX_POINTS = 400
"""Points per line. Longer ones are drawn as means of equal parts, in a band from min to max."""
_MAX_DOTS = 60
_MAX_TICKS = 8
_SIDE = 1000  # width and height of the drawing, in its own units
_DECADES = 1.3
"""Positive values that span more powers of ten than this are drawn on a logarithmic axis."""


@dataclasses.dataclass(frozen=True)
class Series:
  """One line of a chart.

  Attributes:
    color: number of its run, which decides the colour.
    dots: mark each point if there are few.
    faint: draw a thin line in the background, for example for single training batches.
  """

  label: str
  points: Points
  color: int
  dots: bool = False
  faint: bool = False


def color(number: int) -> str:
  """Return the CSS class of a run's colour."""
  return f'c{number % COLORS}'


def line_chart(
  title: str,
  series: Sequence[Series],
  *,
  note: str = '',
  log: bool = False,
  marks: Sequence[tuple[float, int, str]] = (),
) -> Html:
  """Draw all series in one chart against the step; '' if all are empty.

  Args:
    note: small text after the title.
    log: allow a logarithmic axis; it is used for positive values that span decades.
    marks: (step, color, text) of short lines at the bottom.
  """
  drawn = [_Drawn.of(one) for one in series if one.points]
  if not drawn:
    return Html()
  xs = [x for one in drawn for x, _ in one.points]
  ys = [y for one in drawn for y in one.y_values()]
  low, high = min(xs), max(xs)
  log = log and min(ys) > 0 and math.log10(max(ys) / min(ys)) > _DECADES
  scale = math.log10 if log else float
  bottom, top = _padded(min(map(scale, ys)), max(map(scale, ys)))
  x_at = lambda x: (x - low) / (high - low) if high > low else 0.5
  y_at = lambda y: (scale(y) - bottom) / (top - bottom)
  ticks_x = ticks(low, high, 5)
  ticks_y = _log_ticks(bottom, top) if log else ticks(bottom, top, 5)
  # Later lines are drawn on top, so faint ones come first.
  lines = [_line(one, x_at, y_at) for one in sorted(drawn, key=lambda one: not one.series.faint)]
  summary = '; '.join(
    f'{one.label} {number(one.points[-1][1])} at step {one.points[-1][0]:,.0f}'
    for one in series
    if one.points and not one.faint
  )
  svg = tag(
    'svg',
    tag('title', f'{title}: {summary}'),
    (_rule(_SIDE * (1 - y_at(y))) for y in ticks_y),
    lines,
    (_mark(_SIDE * x_at(x), place, text) for x, place, text in marks if low <= x <= high),
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
  if any(one.band for one in drawn):
    note = f'{note}; ' * bool(note) + 'bands: minimum to maximum'
  caption = tag('figcaption', title, ' ', tag('small', note) if note else None)
  return tag('figure', caption, plot, class_='chart')


def legend(names: Sequence[str]) -> Html:
  """List the names of runs, each after its colour."""
  items = (
    tag('li', tag('span', name, class_=f'run {color(place)}')) for place, name in enumerate(names)
  )
  return tag('ul', items, class_='legend')


@dataclasses.dataclass(frozen=True)
class _Drawn:
  """A series as it is drawn; `band`: (x, min, max) of the parts if points were averaged."""

  series: Series
  points: Points
  band: Sequence[tuple[float, float, float]] = ()

  @classmethod
  def of(cls, series: Series) -> '_Drawn':
    points = list(series.points)
    if len(points) <= _MAX_POINTS:
      return cls(series, points)
    ends = [len(points) * part // _MAX_POINTS for part in range(_MAX_POINTS + 1)]
    parts = [points[begin:end] for begin, end in itertools.pairwise(ends)]
    middles = [part[len(part) // 2][0] for part in parts]
    # Keep the first and last x, which show how far the run has come.
    middles[0], middles[-1] = points[0][0], points[-1][0]
    means = [statistics.fmean(y for _, y in part) for part in parts]
    lows = [min(y for _, y in part) for part in parts]
    highs = [max(y for _, y in part) for part in parts]
    return cls(
      series,
      list(zip(middles, means, strict=True)),
      list(zip(middles, lows, highs, strict=True)),
    )

  def y_values(self) -> list[float]:
    """Return the values that the axis must include."""
    return [y for _, y in self.points] + [y for _, *both in self.band for y in both]


def ticks(low: float, high: float, count: int) -> list[float]:
  """Return about `count` round numbers in [low, high]: multiples of 1, 2 or 5 times 10**n."""
  if not high > low:
    return [low]
  rough = (high - low) / count
  power = 10.0 ** math.floor(math.log10(rough))
  step = power * min((1, 2, 5, 10), key=lambda factor: abs(factor * power - rough))
  first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
  return [step * place for place in range(first, last + 1)]


def _log_ticks(bottom: float, top: float) -> list[float]:
  decades = range(max(math.floor(bottom), -300), min(math.ceil(top), 300) + 1)
  for factors in ((1, 2, 5), (1, 3), (1,)):
    found = [factor * 10.0**decade for decade in decades for factor in factors]
    inside = [value for value in found if bottom <= math.log10(value) <= top]
    if len(inside) <= _MAX_TICKS:
      return inside
  return inside[:: -(-len(inside) // _MAX_TICKS)]


def number(value: float) -> str:
  """Format as '1,234', '0.0312' or '2e-05': at most four digits, unless it is an integer."""
  if not math.isfinite(value):
    return str(value)
  if float(value).is_integer() and abs(value) < 1e15:
    return f'{value:,.0f}'
  return f'{value:,.0f}' if abs(value) >= 1e4 else f'{value:.4g}'


def _padded(low: float, high: float) -> tuple[float, float]:
  margin = 0.04 * (high - low) or 0.1 * abs(high) or 1.0
  return low - margin, high + margin


def _line(drawn: _Drawn, x_at, y_at) -> Html:
  one = drawn.series
  places = [(_SIDE * x_at(x), _SIDE * (1 - y_at(y))) for x, y in drawn.points]
  joined = lambda points: 'L'.join(f'{x:.1f} {y:.1f}' for x, y in points)
  dash = one.color // COLORS % 3
  names = ['curve', color(one.color), *(['faint'] if one.faint else [])]
  names += [f'd{dash}'] if dash else []
  line = tag(
    'path',
    d=f'M{joined(places)}',
    class_=' '.join(names),
    data_label=one.label,
    data_points=' '.join(f'{x:.12g} {y:.5g}' for x, y in drawn.points),
  )
  band = dots = ''
  if drawn.band:
    at = lambda x, y: (_SIDE * x_at(x), _SIDE * (1 - y_at(y)))
    outline = [at(x, low) for x, low, _ in drawn.band]
    outline += [at(x, high) for x, _, high in reversed(drawn.band)]
    band = tag('path', d=f'M{joined(outline)}Z', class_=f'band {color(one.color)}')
  if (one.dots and len(places) <= _MAX_DOTS) or len(places) == 1:
    # Lines of length zero with round ends stay round when the drawing is stretched.
    each = ''.join(f'M{x:.1f} {y:.1f}h0' for x, y in places)
    dots = tag('path', d=each, class_=f'dots {color(one.color)}')
  return Html(band + line + dots)


def _rule(y: float) -> Html:
  return tag('line', x1=0, x2=_SIDE, y1=f'{y:.1f}', y2=f'{y:.1f}', class_='grid')


def _mark(x: float, number: int, text: str) -> Html:
  ends = {'x1': f'{x:.1f}', 'x2': f'{x:.1f}', 'y1': _SIDE - 60, 'y2': _SIDE}
  return tag('line', tag('title', text), **ends, class_=f'mark {color(number)}')
