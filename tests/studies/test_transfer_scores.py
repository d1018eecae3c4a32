"""Scores of transfer: the rate that is used, and means over tasks and seeds."""

import numpy as np
import pytest

from mixer_jax.data import tasks
from mixer_jax.errors import UserError
from mixer_jax.studies.transfer_scores import Score, best_rate, group_means, mean_scores

TASKS = (*tasks.suite('vtab'), *tasks.suite('avg5'))


def test_the_rate_of_the_highest_accuracy_is_taken():
  assert best_rate({0.1: Score(50, 2), 0.2: Score(60, 3), 0.3: Score(55, 1)}) == 0.2
  assert best_rate({0.1: Score(60, 2), 0.2: Score(60, 1), 0.3: Score(60, 3)}) == 0.2
  assert best_rate({0.1: Score(60, 2), 0.2: Score(60, 2)}) == 0.1


def test_means_of_groups_are_over_the_means_of_seeds():
  values = np.random.default_rng(0).uniform(0, 100, (19, 3))
  names = [task.name for task in tasks.suite('vtab')]
  means = group_means(dict(zip(names, values.tolist(), strict=True)))
  for group, rows in {'specialised': values[7:11], 'vtab': values}.items():
    seeds = rows.mean(0)
    assert means[group].mean == pytest.approx(rows.mean())
    assert means[group].deviation == pytest.approx(seeds.std(ddof=1))
  assert list(means) == ['natural', 'specialised', 'structured', 'vtab']
  assert group_means({names[0]: [1.0, 2.0]}) == {}
  assert group_means({}) == {}


def test_means_are_of_whole_groups_and_over_tasks():
  values = np.random.default_rng(0).uniform(0, 100, len(TASKS))
  scores = {task.name: float(value) for task, value in zip(TASKS, values, strict=True)}
  expected = {
    'natural': values[:7].mean(),
    'specialised': values[7:11].mean(),
    'structured': values[11:19].mean(),
    'vtab': values[:19].mean(),
    'avg5': values[19:].mean(),
  }
  means = mean_scores(scores)
  assert list(means) == list(expected)
  assert means == pytest.approx(expected)
  del scores['vtab/resisc45']
  assert set(mean_scores(scores)) == {'natural', 'structured', 'avg5'}
  assert mean_scores({}) == {}
  with pytest.raises(UserError, match="no task 'resisc45'"):
    mean_scores({'resisc45': 1.0})
