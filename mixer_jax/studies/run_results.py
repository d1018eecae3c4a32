"""Results of a training run, read from its workdir."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from mixer_jax.runlog.metrics import read_metrics


@dataclasses.dataclass(frozen=True)
class RunResult:
  """Result of a run that ended."""

  step: int
  """Last step."""
  best_step: int | None
  """Step of the state that the run is reported by; None: the run keeps no best state."""
  curves: Mapping[str, Mapping[int, float]]
  """Metric -> step -> value, of all evaluations on the evaluation split."""
  numbers: Mapping[str, float]
  """Metrics of the state that the run is reported by, on the test split if there is one."""


def is_done(folder: str) -> bool:
  """Return True if the run in this folder ended."""
  return any(row.get('event') == 'end' for row in read_metrics(folder))


def result_of(folder: str) -> RunResult:
  """Result of a run that ended, also in an earlier process."""
  rows = read_metrics(folder)
  end = [row for row in rows if row.get('event') == 'end'][-1]
  curves: dict[str, dict[int, float]] = {}
  for row in rows:
    if row.get('event') in ('eval', 'fewshot'):
      for name, value in _numbers(row).items():
        curves.setdefault(name, {})[row['step']] = value
  reported = end.get('best_step', end['step'])
  numbers = {name: curve[reported] for name, curve in curves.items() if reported in curve}
  for row in rows:
    if row.get('event') == 'test':
      numbers |= _numbers(row)
  return RunResult(end['step'], end.get('best_step'), curves, numbers)


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
  """Metrics of a row of an evaluation."""
  others = ('step', 'seconds')
  return {
    name: value
    for name, value in row.items()
    if name not in others and isinstance(value, int | float)
  }
