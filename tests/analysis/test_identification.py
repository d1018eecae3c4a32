"""Layer identification on matrices with a known answer."""

import math

import numpy as np
import pytest

from mixer_jax.analysis.identification import identify
from mixer_jax.errors import UserError


def test_each_layer_is_identified_in_the_other_model():
  there = identify(np.array([[0.9, 0.8, 0.1], [0.3, 0.4, 0.6], [0.2, 0.95, 0.7]]))
  assert there.nearest == (0, 2, 1)
  assert there.accuracy == pytest.approx(100 / 3)
  assert there.chance == pytest.approx(100 / 3)
  assert there.depth_error == pytest.approx((0 + 0.5 + 0.5) / 3)


def test_models_of_different_depths_have_a_distance_and_no_accuracy():
  similarity = np.zeros((2, 5))
  similarity[0, 1] = similarity[1, 4] = 1
  found = identify(similarity)
  assert (found.nearest, found.accuracy, found.chance) == ((1, 4), None, 20)
  assert found.depth_error == pytest.approx((0.25 + 0) / 2)


def test_a_layer_without_a_number_has_no_nearest_and_counts_as_missed():
  similarity = np.array([[0.5, np.nan], [np.nan, np.nan]])
  found = identify(similarity)
  assert (found.nearest, found.accuracy, found.depth_error) == ((0, -1), 50, 0)
  assert math.isnan(identify(np.full((2, 2), np.nan)).depth_error)


def test_guesses_are_at_a_third_of_the_depth():
  rng = np.random.default_rng(0)
  found = [identify(rng.random((32, 32))) for _ in range(100)]
  assert np.mean([one.depth_error for one in found]) == pytest.approx(1 / 3, abs=0.02)
  assert np.mean([one.accuracy or 0 for one in found]) == pytest.approx(100 / 32, abs=1)


def test_other_shapes_than_a_matrix_are_refused():
  for shape in ((3,), (0, 4), (2, 2, 2)):
    with pytest.raises(UserError, match=r'give \(n_x, n_y\) layers'):
      identify(np.zeros(shape))
