"""Line charts: the drawing agrees with the numbers."""

import math
import random
import re

import pytest

from mixer_jax.webpage import charts
from mixer_jax.webpage.charts import Series, line_chart


def values(chart: str) -> list[list[tuple[float, float]]]:
  """Return the points that a chart shows when its lines are pointed at."""
  found = re.findall('data-points="([^"]*)"', chart)
  numbers = [[float(x) for x in text.split()] for text in found]
  return [list(zip(line[::2], line[1::2], strict=True)) for line in numbers]


def places(chart: str) -> list[list[tuple[float, float]]]:
  """Return where they are drawn."""
  found = re.findall('d="M([^"Zh]*)" class="curve', chart)
  return [[tuple(map(float, p.split())) for p in path.split('L')] for path in found]  # pyright: ignore[reportReturnType]


def test_points_are_drawn_at_their_places():
  points = [(0, 1.0), (50, 3.0), (100, 2.0)]
  chart = line_chart('Loss', [Series('a', points, 0)])
  assert values(chart) == [points]
  ((low, high, middle),) = places(chart)
  assert (low[0], high[0], middle[0]) == (0, 500, 1000)
  assert low[1] > middle[1] > high[1]
  assert middle[1] - high[1] == pytest.approx((low[1] - high[1]) / 2, abs=0.2)
  assert 'a 2 at step 100' in chart  # for screen readers


def test_values_over_decades_are_drawn_on_a_logarithmic_axis():
  points = [(0, 100.0), (1, 1.0), (2, 0.01)]
  ((top, middle, bottom),) = places(line_chart('x', [Series('a', points, 0)], log=True))
  assert middle[1] - top[1] == pytest.approx(bottom[1] - middle[1], abs=0.2)
  ((top, middle, bottom),) = places(line_chart('x', [Series('a', points, 0)]))
  assert middle[1] - top[1] > 50 * (bottom[1] - middle[1])
  # 0 has no place on a logarithmic axis.
  ((top, middle, _, _),) = places(line_chart('x', [Series('a', [*points, (3, 0.0)], 0)], log=True))
  assert middle[1] - top[1] > 500


@pytest.mark.parametrize('log', [False, True])
@pytest.mark.parametrize(
  'points',
  [[(5, 0.0)], [(5, 1e-300), (6, 1e299)], [(0, 2.0), (9, 2.0)], [(0, -1.0), (1, 1.0)]],
)
def test_any_finite_points_are_drawn_inside(points, log):
  chart = line_chart('x', [Series('a', points, 0)], log=log)
  for line in places(chart):
    assert all(0 <= x <= 1000 and 0 <= y <= 1000 for x, y in line)
  assert 'nan' not in chart.lower()
  assert 'inf' not in chart.lower()


def test_many_points_become_means_in_a_band_that_loses_no_peak():
  rng = random.Random(0)
  points = [(step, 1 + rng.random()) for step in range(100_000)]
  points[77_777] = (77_777, 9.0)
  chart = line_chart('x', [Series('a', points, 0)])
  assert len(chart) < 40_000
  (line,) = values(chart)
  assert (line[0][0], line[-1][0]) == (0, 99_999)
  assert [x for x, _ in line] == sorted({x for x, _ in line})
  inner = [y for x, y in line if abs(x - 77_777) > 1000]
  assert all(1.4 < y < 1.6 for y in inner)
  ((band),) = re.findall('d="M([^"]*)Z" class="band', chart)
  highest = min(float(place.split()[1]) for place in band.split('L'))
  assert highest == pytest.approx(1000 * 0.04 / 1.08, abs=1)  # the peak, below 4 % of margin
  assert 'bands: minimum to maximum' in chart


def test_more_runs_than_colours_are_dashed_and_an_empty_chart_is_empty():
  series = [Series(f'{i}', [(0, i), (1, i)], i) for i in range(charts.COLORS + 1)]
  names = re.findall('class="(curve[^"]*)"', line_chart('x', series))
  assert names[0] == 'curve c0'
  assert names[-1] == 'curve c0 d1'
  assert line_chart('x', [Series('a', [], 0)]) == ''


def test_events_are_marked_at_their_step():
  chart = line_chart('x', [Series('a', [(0, 0), (10, 1)], 0)], marks=[(5, 1, 'r'), (50, 0, 'no')])
  assert re.findall('<line x1="([^"]*)"[^>]*class="mark c1"><title>r</title>', chart) == ['500.0']
  assert '<title>no' not in chart


@pytest.mark.parametrize(
  ('low', 'high', 'wanted'),
  [
    (0, 1200, [0, 200, 400, 600, 800, 1000, 1200]),
    (25, 1200, [200, 400, 600, 800, 1000, 1200]),
    (0, 0.003, [0, 0.0005, 0.001, 0.0015, 0.002, 0.0025, 0.003]),
    (-3, 12, [-2, 0, 2, 4, 6, 8, 10, 12]),
    (7, 7, [7]),
  ],
)
def test_ticks_are_round_numbers_inside(low, high, wanted):
  assert charts.ticks(low, high, 5) == pytest.approx(wanted)


def test_ticks_of_any_range_are_few_and_inside():
  rng = random.Random(0)
  for _ in range(500):
    low = rng.uniform(-1, 1) * 10 ** rng.uniform(-8, 8)
    high = low + 10 ** rng.uniform(-6, 8)
    found = charts.ticks(low, high, 5)
    assert 3 <= len(found) <= 9
    slack = 1e-9 * (high - low) + 1e-9 * abs(low)
    assert all(low - slack <= tick <= high + slack for tick in found)


@pytest.mark.parametrize(
  ('value', 'text'),
  [(1234, '1,234'), (0.0312, '0.0312'), (2e-5, '2e-05'), (0, '0'), (math.pi, '3.142'),
   (12345.6, '12,346')],
)  # fmt: skip
def test_numbers_are_short(value, text):
  assert charts.number(value) == text
