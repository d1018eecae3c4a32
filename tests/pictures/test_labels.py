"""Texts that fit, and ticks."""

import itertools
import math

import pytest

from mixer_jax.pictures.drawing import pyplot
from mixer_jax.pictures.labels import fitted, fitted_lines, legend_below, log_axis, step_axis


@pytest.mark.parametrize(
  ('text', 'shown'),
  [
    ('short', 'short'),
    ('', ''),
    ('build/runs/of/today/mixer', 'bui…ay/mixer'),
    ('two words here', 'two…rds here'),
  ],
)
def test_one_line_keeps_both_ends(text, shown):
  assert fitted(text, 12) == shown


@pytest.mark.parametrize(('letters', 'lines'), list(itertools.product((5, 18, 40), (1, 2, 3))))
@pytest.mark.parametrize(
  'text', ['x' * 500, 'a few words and/a/very/long/path ' * 9, 'w ' * 200, 'new\nline']
)
def test_no_line_is_too_long_and_there_are_not_too_many(text, letters, lines):
  shown = fitted(text, letters, lines).split('\n')
  assert len(shown) <= lines
  assert max(map(len, shown)) <= letters
  assert len(''.join(shown)) > min(len(text.replace('\n', ' ').strip()), letters * lines) / 2


def test_wide_characters_count_twice():
  assert len(fitted('ｗ' * 99, 20)) <= 10 or '\\' in fitted('ｗ' * 99, 20)


def test_lines_stay_lines():
  assert fitted_lines('one\ntwo and three', 9, 1) == 'one\ntw… three'


@pytest.mark.parametrize(
  ('low', 'high', 'wanted'),
  [
    (0.1, 2.3, ['0.1', '0.2', '0.5', '1', '2']),
    (3.0, 3.0, ['2', '5']),
    (482.0, 123_457.0, ['500', '1,000', '2,000', '5,000', '10,000', '20,000', '50,000', '100,000']),
    (1e-9, 10.0, None),
  ],
)
def test_ticks_of_a_logarithmic_axis_are_plain_numbers(low, high, wanted):
  figure, axis = pyplot().subplots()
  axis.plot([1, 2], [low, high])
  log_axis(axis, [low, high])
  figure.canvas.draw()
  bottom, top = axis.get_ylim()
  labels = [
    label.get_text()
    for label, place in zip(axis.get_yticklabels(), axis.get_yticks(), strict=True)
    if bottom <= place <= top
  ]
  assert bottom < low <= high < top
  assert all(math.isfinite(float(label.replace(',', ''))) for label in labels)
  assert 2 <= len(labels) <= 10
  assert wanted is None or set(wanted) <= set(labels)
  pyplot().close(figure)


@pytest.mark.parametrize(
  ('steps', 'wanted'),
  [((1,), ['1']), ((1, 2, 3), ['1', '2', '3']), ((0, 2_000_000), ['0', '500,000', '1,000,000'])],
)
def test_ticks_of_steps_are_whole(steps, wanted):
  figure, axis = pyplot().subplots()
  axis.plot(steps, steps)
  step_axis(axis)
  figure.canvas.draw()
  labels = [label.get_text() for label in axis.get_xticklabels()]
  assert set(wanted) <= set(labels)
  assert all('.' not in label for label in labels)
  pyplot().close(figure)


def test_no_legend_where_nothing_has_a_label():
  figure, axis = pyplot().subplots()
  legend_below(axis)
  assert axis.get_legend() is None
  pyplot().close(figure)
