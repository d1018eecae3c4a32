"""Outcomes of runs on permuted images."""

import pytest
import scipy.stats

from mixer_jax.studies.permutation import outcomes


def test_outcomes_are_means_and_shares_over_seeds():
  finals = {'none': [90.0, 92.0, 94.0], 'patches': [91.0, 93.0, 95.0], 'pixels': [46.0, 40.0, 52.0]}
  found = outcomes(finals)
  assert found['none'].lost == found['none'].noise == found['none'].relative_loss == 0
  assert (found['patches'].mean, found['patches'].lost) == (93, -1)
  assert found['pixels'].relative_loss == pytest.approx(0.5)
  assert found['pixels'].deviation == pytest.approx(6)
  assert found['pixels'].noise is not None
  welch = scipy.stats.ttest_ind(finals['none'], finals['pixels'], equal_var=False)
  assert found['pixels'].lost / found['pixels'].noise == pytest.approx(welch.statistic)


def test_one_seed_has_no_noise():
  found = outcomes({'none': [80.0], 'pixels': [60.0]})['pixels']
  assert found.deviation is None
  assert found.noise is None
  assert found.relative_loss == pytest.approx(0.25)
