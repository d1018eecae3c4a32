"""Study of the values of one or two fields: an experiment trained with each, and the best."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.evaluation.statistics import mean_deviation
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.train_result import TrainResult
from mixer_jax.studies import study, study_config, sweep_report
from mixer_jax.studies.study import Planned, Run, StudyReport, Variation

_MAX_FIELDS = 2


def run(
  config: RunConfig | Mapping[str, Any],
  workdir: str,
  *,
  over: Mapping[str, Sequence[Any]],
  seeds: int = 1,
) -> StudyReport | None:
  """Trains an experiment with each value of one or two fields, and names the best value.

  The best value has the best mean of `early_stopping.metric` on the evaluation split. The test
  split has no part in the choice, and its figure is that of the chosen value. Runs that are in
  `workdir` already are resumed. Process 0 writes `sweep.json` and `sweep.png` there, and returns
  the report; other processes return None.

  Args:
    config: the experiment, with the fields of configs/common.py.
    over: dotted name of a field -> its values. Two fields: each value with each.
    seeds: runs with each value, counted from the seed of the experiment.

  Raises:
    UserError: a run could not begin, or the runs are not judged by the same figure.
  """
  config = study_config.typed(RunConfig, config)
  over = _checked(over)
  runs = plan(config, workdir, over, study_config.seeds(seeds))
  study.join('sweep', config, workdir, config.processes, over=over, seeds=seeds)
  planned = study.check(runs)
  _check_comparable(planned)
  results = [
    study.train_unless_diverged(one.run, f'run {number} of {len(planned)}', one.experiment)
    for number, one in enumerate(planned, 1)
  ]
  return study.finish(workdir, 'sweep', lambda: report(over, planned, results), sweep_report)


def _checked(over: Mapping[str, Sequence[Any]]) -> dict[str, list[Any]]:
  """Field -> its values; raises `UserError` for other than one or two fields of some values."""
  if not 1 <= len(over) <= _MAX_FIELDS:
    raise UserError(f'a sweep is over one or two fields, not {len(over)}')
  for name, values in over.items():
    texts = [_text(value) for value in values]
    if not texts or '' in texts or len(set(texts)) < len(texts):
      raise UserError(f'the values of {name} are {", ".join(texts)}: some, and each once')
  if 'seed' in over:
    raise UserError('config.seed is not swept: the runs of one value differ in it, see --seeds')
  return {name: list(values) for name, values in over.items()}


def plan(
  config: RunConfig, workdir: str, over: Mapping[str, Sequence[Any]], seeds: int
) -> list[Run]:
  """All runs of the study: those of every value from one seed before those of the next."""
  variations = []
  for values in itertools.product(*over.values()):
    fields = dict(zip(over, values, strict=True))
    named = [f'{name}={_text(value)}' for name, value in fields.items()]
    variations.append(Variation(', '.join(named), '/'.join(named), fields, fields))
  return study.expand({'': config}, seeds, workdir, lambda *_: variations)


def _check_comparable(planned: Sequence[Planned]) -> None:
  """Raises `UserError` unless one figure of the same images judges all runs."""
  first = planned[0].experiment
  for one in planned:
    other = one.experiment
    for what, of in (
      ('config.early_stopping.metric', lambda exp: exp.config.early_stopping.metric),
      ('config.data.eval_split', lambda exp: exp.evaluated.source.name),
      ('config.data.test_split', lambda exp: exp.tested and exp.tested.source.name),
      ('config.loss', lambda exp: first.config.early_stopping.metric == 'loss' and exp.config.loss),
    ):
      if of(first) != of(other):
        raise UserError(
          f'the values are not compared by the same figure: {what} is {of(first)} and {of(other)}: '
          'set one for all'
        )


def _text(value: Any) -> str:
  """A value in messages and names of folders."""
  return str(value).replace('/', '_')


def report(
  over: Mapping[str, Sequence[Any]],
  planned: Sequence[Planned],
  results: Sequence[TrainResult | str],
) -> dict[str, Any]:
  """Content of `sweep.json`: a row for each value, or each pair of values, and the best."""
  first = planned[0].experiment
  stopping = first.config.early_stopping
  metric = stopping.metric
  chosen_on = first.evaluated.source.name
  tested_on = first.metrics().get(metric) if first.test else None
  if tested_on == chosen_on:  # these images have a part in the choice
    tested_on = None
  rows = []
  for values in itertools.product(*over.values()):
    fields = dict(zip(over, values, strict=True))
    own = [
      (one.run.config.seed, result)
      for one, result in zip(planned, results, strict=True)
      if all(one.run.labels[name] == value for name, value in fields.items())
    ]
    rows.append({'values': fields, **_outcome(metric, own, tested=tested_on is not None)})
  complete = [row for row in rows if not row['diverged'] and math.isfinite(row['mean'])]
  better = lambda row: stopping.sign * row['mean']
  return {
    'fields': {name: list(values) for name, values in over.items()},
    'metric': metric,
    'chosen_on': chosen_on,
    'tested_on': tested_on,
    'rows': rows,
    'best': max(complete, key=better)['values'] if complete else None,
  }


def _outcome(
  metric: str, own: Sequence[tuple[int, TrainResult | str]], *, tested: bool
) -> dict[str, Any]:
  """Figures of the runs with one value, over seeds; a diverged run has none."""
  ended = {seed: result for seed, result in own if not isinstance(result, str)}
  chosen_by = [result.evaluations[result.reported_step][metric] for result in ended.values()]
  of_test = [result.numbers[metric] for result in ended.values()] if tested else []
  row: dict[str, Any] = {
    'seeds': list(ended),
    'diverged': {str(seed): result for seed, result in own if isinstance(result, str)},
    'evaluation': chosen_by,
    'test': of_test,
  }
  if chosen_by:
    row |= mean_deviation(chosen_by)._asdict()
  if of_test:
    row |= {f'test_{name}': x for name, x in mean_deviation(of_test)._asdict().items()}
  return row
