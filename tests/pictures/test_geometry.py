"""All pictures, usual and extreme: text is inside, apart, readable and off the data."""

import numpy as np
import pytest

from mixer_jax.pictures.drawing import pyplot
from mixer_jax.studies import pruning_report
from tests.pictures.cases import CASES, FAST, results
from tests.pictures.geometry import faults, faults_of

NAMES = [
  pytest.param(name, marks=() if name in FAST else pytest.mark.long, id=name.replace(' ', '-'))
  for name in CASES
]


@pytest.mark.parametrize('name', NAMES)
def test_texts_are_inside_apart_and_off_the_data(name, monkeypatch):
  assert faults_of(CASES[name], monkeypatch) == []


def test_the_fast_cases_exist():
  assert set(FAST) < set(CASES)


def figure_with(*faulty: str):
  """A figure with some of the faults."""
  figure, axis = pyplot().subplots(figsize=(4, 3))
  axis.plot([1, 2, 3], [1, 2, 3], label='line')
  if 'outside' in faulty:
    figure.text(0.9, 0.5, 'a long text at the edge')
  if 'overlap' in faulty:
    figure.text(0.5, 0.95, 'one')
    figure.text(0.51, 0.95, 'other')
  if 'axes' in faulty:
    axis.annotate('value', (3, 3), xytext=(0, 20), textcoords='offset points')
  if 'legend' in faulty:
    axis.legend()
  if 'contrast' in faulty:
    figure.text(0.2, 0.95, 'pale', color='0.8')
  if 'alone' in faulty:
    axis.plot([2], [2], label='alone')
  if 'leaves' in faulty:
    axis.set_ylim(0, 2)
  return figure


@pytest.mark.parametrize(
  ('kind', 'message'),
  [
    ('', None),
    ('outside', "'a long text at the edge' is outside of the figure"),
    ('overlap', "'one' and 'other' overlap"),
    ('axes', "'value' is outside of its axes"),
    ('legend', "a legend covers the data of ''"),
    ('contrast', "'pale' has a low contrast"),
    ('alone', "'alone' has one point and no marker"),
    ('leaves', "'line' leaves the axes"),
  ],
)
def test_each_fault_is_found(kind, message):
  figure = figure_with(kind)
  assert list(faults(figure)) == ([message] if message else [])
  pyplot().close(figure)


def test_points_of_prune_do_not_cover_each_other():
  figure, axis = pyplot().subplots(figsize=(5, 4), layout='constrained')
  handles = pruning_report._draw_accuracy(axis, results('prune_digits'), 'after_removal')
  figure.canvas.draw()
  lines = [handle for label, handle in handles.items() if 'single' not in label][1:]
  assert len(lines) == 11
  places = np.concatenate([axis.transData.transform(np.column_stack(x.get_data())) for x in lines])
  distances = np.abs(places[:, None] - places[None]).max(-1) + 99 * np.eye(len(places))
  assert distances.min() > lines[0].get_markersize() * figure.dpi / 72
  pyplot().close(figure)
