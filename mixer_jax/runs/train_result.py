"""The result of a training run: its evaluations, and what it has cost."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.runlog.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class TrainResult:
  """Result of a run.

  Attributes:
    step: the last step.
    best_step: the step of the best state, if the run keeps it.
    numbers: figures of the final report, such as top1: of the best state if the run keeps it, else
      of the last; on the test split, if there is one. Figures of `config.evals` are called
      NAME/FIGURE.
    evaluations: step -> figures of the evaluations of this step.
    device_hours: devices times hours, over all starts of the run.
  """

  step: int
  best_step: int | None
  numbers: Mapping[str, float]
  evaluations: Mapping[int, Mapping[str, float]]
  device_hours: float

  @property
  def core_days(self) -> float:
    """Devices times days."""
    return self.device_hours / 24

  @property
  def reported_step(self) -> int:
    """The step of the state that `numbers` are of."""
    return self.best_step or self.step

  def curve(self, metric: str = 'top1') -> dict[int, float]:
    """Return step -> this figure of the evaluations that have it."""
    return curve_of(self.evaluations, metric)


def result_of(workdir) -> TrainResult | None:
  """Return the result of the run in `workdir` from its file; None if it has not ended."""
  rows = read_metrics(workdir)
  ends = [row for row in rows if row.get('event') == 'end']
  return result_from(rows, ends[-1]) if ends else None


def result_from(rows: Iterable[Mapping[str, Any]], end: Mapping[str, Any]) -> TrainResult:
  """Return the result of a run from the rows of its evaluations and its last row.

  Raises:
    UserError: the rows lack the evaluation of the reported step.
  """
  rows = list(rows)
  evaluations = evaluations_in(rows)
  reported = end.get('best_step') or end['step']
  numbers = dict(evaluations.get(reported, {}))
  for row in rows:
    if row.get('event') == 'test' and row['step'] == reported:
      numbers |= _figures(row)
  if not numbers:
    raise UserError(f'the evaluation of step {reported} is missing in metrics.jsonl')
  return TrainResult(end['step'], end.get('best_step'), numbers, evaluations, end['device_hours'])


def evaluations_in(rows: Iterable[Mapping[str, Any]]) -> dict[int, dict[str, float]]:
  """Return step -> figures of all evaluations; of one that was repeated, the last."""
  evaluations: dict[int, dict[str, float]] = {}
  for row in rows:
    if is_evaluation(row):
      prefix = f'{row["evaluator"]}/' if 'evaluator' in row else ''
      figures = {f'{prefix}{name}': value for name, value in _figures(row).items()}
      evaluations.setdefault(row['step'], {}).update(figures)
  return evaluations


def is_evaluation(row: Mapping[str, Any]) -> bool:
  """Return True for a row of `metrics.jsonl` with figures of an evaluation."""
  return row.get('event') in ('eval', 'fewshot') or 'evaluator' in row


def curve_of(evaluations: Mapping[int, Mapping[str, float]], metric: str) -> dict[int, float]:
  """Return step -> this figure of the evaluations that have it."""
  return {step: figures[metric] for step, figures in evaluations.items() if metric in figures}


def _figures(row: Mapping[str, Any]) -> dict[str, float]:
  labels = ('event', 'step', 'seconds', 'data', 'evaluator')
  numbers = {name: value for name, value in row.items() if type(value) in (int, float)}
  return {name: value for name, value in numbers.items() if name not in labels}
