"""Attention and position embeddings: the points and tiles that are drawn."""

import numpy as np
import pytest

from mixer_jax.pictures import attention_pictures
from mixer_jax.pictures.drawing import pyplot

VIRIDIS = pyplot().get_cmap('viridis')


@pytest.fixture
def figures(monkeypatch):
  """The figures that were drawn."""
  kept = []
  monkeypatch.setattr(attention_pictures, 'png_of', lambda figure: kept.append(figure) or b'')
  yield kept
  for figure in kept:
    pyplot().close(figure)


def tile(axis, row: int, column: int, pixels: int, side: int) -> np.ndarray:
  """The colours of a tile, one per cell."""
  canvas = axis.images[0].get_array()
  start = [place * (pixels + attention_pictures._GAP) for place in (row, column)]
  cut = canvas[start[0] : start[0] + pixels, start[1] : start[1] + pixels]
  cells = cut.reshape(side, pixels // side, side, pixels // side, 3)
  assert np.ptp(cells, axis=(1, 3)).max() == 0  # each cell has one colour
  return cells[:, 0, :, 0]


def test_there_is_a_point_for_each_block_and_head(figures):
  distance = np.array([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]])
  attention_pictures.distances(distance, 'title', 16, 7.5)
  (axis,) = figures[0].axes
  *points, uniform = axis.get_lines()
  assert [list(line.get_ydata()) for line in points] == distance.T.tolist()
  assert [list(line.get_xdata()) for line in points] == [[0, 1]] * 3
  assert [line.get_label() for line in points] == ['head 0', 'head 1', 'head 2']
  assert len({tuple(line.get_color()) for line in points}) == 3
  assert set(uniform.get_ydata()) == {7.5}
  assert axis.get_ylim()[0] == 0
  assert axis.get_ylim()[1] > 7.5


def test_of_very_many_heads_the_legend_has_the_number(figures):
  attention_pictures.distances(np.ones((2, 48)), 'title', 16, 7.5)
  texts = figures[0].axes[0].get_legend().get_texts()
  assert [text.get_text() for text in texts] == ['48 heads', 'uniform']


def test_a_tile_of_the_class_token_is_scaled_by_its_largest_weight(figures):
  maps = np.random.default_rng(0).uniform(0.1, 1, (3, 4, 2, 2))
  attention_pictures.class_token(maps, 'title')
  axis = figures[0].axes[0]
  np.testing.assert_allclose(
    tile(axis, 2, 3, 84, 2), VIRIDIS(maps[2, 3] / maps[2, 3].max())[..., :3]
  )
  assert [label.get_text() for label in axis.get_yticklabels()] == ['0', '1', '2']
  assert [label.get_text() for label in axis.get_xticklabels()] == ['0', '1', '2', '3']


def test_colours_of_similarity_span_from_the_least_value_and_the_grid_is_thinned(figures):
  cosines = np.random.default_rng(0).uniform(0.35, 1, (13,) * 4)
  attention_pictures.position_similarity(cosines, 'title')
  axis = figures[0].axes[0]
  assert [label.get_text() for label in axis.get_yticklabels()] == [str(2 * i) for i in range(7)]
  wanted = VIRIDIS((cosines[2, 12] - 0.3) / 0.7)[..., :3]
  np.testing.assert_allclose(tile(axis, 1, 6, 78, 13), wanted)
  cosines = np.full((8,) * 4, np.nan)
  cosines[3, 7] = -0.25
  attention_pictures.position_similarity(cosines, 'title')
  axis = figures[1].axes[0]
  assert len(axis.get_xticks()) == 8
  np.testing.assert_allclose(
    tile(axis, 3, 7, 80, 8), np.broadcast_to(VIRIDIS(0.05 / 1.3)[:3], (8, 8, 3))
  )
  np.testing.assert_allclose(tile(axis, 0, 0, 80, 8)[0, 0], attention_pictures._RED)
