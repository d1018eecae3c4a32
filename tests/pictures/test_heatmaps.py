"""Heatmaps: the matrix that is drawn and the rings around marked cells."""

import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.pictures import heatmaps
from mixer_jax.pictures.drawing import pyplot
from mixer_jax.pictures.heatmaps import Panel

NAMES = ['block_0', 'block_1', 'block_2']
AXES = ('one', 'other')
VALUES = np.array([[0.9, 0.1], [0.2, np.nan], [0.3, 0.8]])


@pytest.fixture
def figures(monkeypatch):
  """The figures that were drawn."""
  kept = []
  monkeypatch.setattr(heatmaps, 'png_of', lambda figure: kept.append(figure) or b'')
  yield kept
  for figure in kept:
    pyplot().close(figure)


def rings(axis) -> list[list[tuple[float, float]]]:
  """(column, row) of each ring, by colour."""
  return [[tuple(place) for place in drawn.get_offsets()] for drawn in axis.collections]


@pytest.mark.parametrize(
  ('marked', 'wanted'),
  [
    (None, []),
    ((1, 0, 1), [(1, 0), (0, 1), (1, 2)]),
    ((-1, 1, -1), [(1, 1)]),
    ((-1, -1, -1), []),
  ],
)
def test_marked_cells_get_a_ring_and_rows_without_one_get_none(marked, wanted, figures):
  heatmaps.heatmap(VALUES, NAMES, NAMES[:2], 'CKA', AXES, marked=marked)
  heatmaps.heatmaps([Panel(VALUES, 'a', AXES, marked), Panel(VALUES, 'b', AXES, None)], 'title')
  single, grid = figures
  for axis in (single.axes[0], grid.axes[0]):
    assert rings(axis) == [wanted, wanted]  # one in black and one in cyan
  assert rings(grid.axes[1]) == [[], []]


def test_the_first_layer_is_at_the_lower_left_and_axes_are_named(figures):
  heatmaps.heatmap(VALUES, NAMES, NAMES[:2], 'CKA', ('up', 'x' * 70))
  axis = figures[0].axes[0]
  (image,) = axis.images
  assert image.origin == 'lower'
  np.testing.assert_array_equal(np.ma.filled(image.get_array(), np.nan), VALUES)
  assert image.get_clim() == (0.1, 1)
  assert [label.get_text() for label in axis.get_yticklabels()] == NAMES
  assert [label.get_text() for label in axis.get_xticklabels()] == NAMES[:2]
  assert axis.get_ylabel() == 'up'
  assert axis.get_xlabel().replace('\n', '') == 'x' * 21 + '…' + 'x' * 42


def test_it_is_a_png_also_if_no_value_is_known():
  values = np.full((2, 2), np.nan)
  for png in (
    heatmaps.heatmap(values, NAMES[:2], NAMES[:2], 'CKA', AXES, marked=(-1, -1)),
    heatmaps.heatmaps([Panel(values, 'none', AXES, None)], 'a title\nof two lines'),
  ):
    with Image.open(io.BytesIO(png)) as picture:
      assert picture.format == 'PNG'


@pytest.mark.parametrize(
  ('values', 'least'),
  [([0.57, 0.9], 0.5), ([-0.2, 0.5], 0), ([1.0, 1.0], 0.9), ([np.nan, 0.35], 0.3)],
)
def test_colours_span_from_the_least_value(values, least, figures):
  heatmaps.heatmap(np.array([values]), NAMES[:1], NAMES[:2], 'CKA', AXES)
  other = Panel(np.array([[0.999, 0.95]]), 'b', AXES, None)
  heatmaps.heatmaps([Panel(np.array([values]), 'a', AXES, None), other], 'CKA')
  for axis in (figures[0].axes[0], *figures[1].axes[:2]):
    assert axis.images[0].get_clim() == (least, 1)


def test_rings_and_missing_values_are_explained_where_there_are_some(figures):
  for values, marked in ((VALUES, None), (VALUES[:1], (0,)), (VALUES[:1], (-1,))):
    heatmaps.heatmap(values, NAMES[: len(values)], NAMES[:2], 'CKA', AXES, marked)
    heatmaps.heatmaps([Panel(values, 'a', AXES, marked)], 'CKA')
  titles = [' '.join(figure.get_suptitle().split()) for figure in figures]
  assert titles[::2] == titles[1::2]
  assert ['hatched' in title for title in titles[::2]] == [True, False, False]
  assert ['ring' in title for title in titles[::2]] == [False, True, False]
  assert figures[0].axes[0].patch.get_hatch()
