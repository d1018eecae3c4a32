"""The best evaluation and the end of a run, against NumPy over the whole course."""

import dataclasses
import json

import numpy as np
import pytest

from mixer_jax.errors import UserError
from mixer_jax.training.early_stopping import EarlyStoppingConfig, Standing


def course(values, config: EarlyStoppingConfig) -> list[Standing]:
  """The standings after evaluations at steps 10, 20, … up to the end of the run."""
  standings, standing = [], Standing()
  for i, value in enumerate(values, 1):
    numbers = {} if value is None else {config.metric: value}
    standing = standing.after(config, 10 * i, numbers)
    standings.append(standing)
    if standing.is_over(config):
      break
  return standings


@pytest.mark.parametrize('metric', ['top1', 'loss'])
@pytest.mark.parametrize('patience', [0, 1, 3])
@pytest.mark.parametrize('seed', range(5))
def test_a_run_stops_patience_evaluations_behind_its_best(metric, patience, seed):
  values = np.random.default_rng(seed).integers(0, 12, 40).astype(float)
  best_of = np.argmin if metric == 'loss' else np.argmax  # both take the first of equals
  ends = [i for i in range(40) if patience and i - best_of(values[: i + 1]) >= patience]
  last = ends[0] if ends else 39
  found = course(values.tolist(), EarlyStoppingConfig(metric, patience))
  assert len(found) == last + 1
  best = int(best_of(values[: last + 1]))
  assert found[-1] == Standing(10 * (last + 1), 10 * (best + 1), values[best], last - best)


def test_an_evaluation_without_the_metric_does_not_count_and_nan_is_never_the_best():
  config = EarlyStoppingConfig('5-shot', 2)
  found = course([None, float('nan'), 3.0, None, None, 3.0, None, float('nan')], config)
  assert [standing.stale for standing in found] == [0, 1, 0, 0, 0, 1, 1, 2]
  assert found[1].best is None
  assert found[-1] == Standing(80, 30, 3.0, 2)


def test_a_standing_comes_back_from_json_to_the_bit():
  standing = Standing(30, 20, 0.1 + 0.2, 1)
  assert Standing(**json.loads(json.dumps(dataclasses.asdict(standing)))) == standing


@pytest.mark.parametrize('patience', [-1, 1.5, True, None])
def test_patience_is_a_whole_number(patience):
  with pytest.raises(UserError, match='patience must be a whole number of evaluations'):
    EarlyStoppingConfig('top1', patience)
