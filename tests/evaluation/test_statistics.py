"""Statistics of runs against NumPy."""

import numpy as np
import pytest

from mixer_jax.evaluation.statistics import mean_deviation


def test_mean_and_deviation_are_numpys():
  values = [71.3, 70.1, 74.8]
  found = mean_deviation(values)
  assert found.mean == pytest.approx(np.mean(values))
  assert found.deviation == pytest.approx(np.std(values, ddof=1))


def test_one_value_has_no_deviation():
  assert mean_deviation([71.3]) == (71.3, None)
