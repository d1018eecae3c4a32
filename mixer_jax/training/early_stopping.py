"""Early stopping: the best evaluation of a run, and the decision to stop.

A run's `Standing` is saved with its states, so that a run that is resumed stops at the same step,
and with the same best state, as one that was never interrupted.
"""

import dataclasses
import math
from collections.abc import Mapping

from mixer_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class EarlyStoppingConfig:
  """Attributes:
  metric: evaluation metric to track; higher is better, except for 'loss'.
  patience: number of evaluations in a row without improvement after which the run stops; 0: never.
  """

  metric: str
  patience: int

  def __post_init__(self):
    if type(self.patience) is not int or self.patience < 0:
      raise UserError(
        'early_stopping.patience must be a whole number of evaluations, 0 for never, is '
        f'{self.patience!r}'
      )

  @property
  def sign(self) -> int:
    """1 if a higher metric is better, else -1."""
    return -1 if self.metric.rpartition('/')[2] == 'loss' else 1


@dataclasses.dataclass(frozen=True)
class Standing:
  """Results of the evaluations of a run so far.

  Attributes:
    step: of the last evaluation; 0 before the first.
    best_step: of the best, the first among equals; 0: there is none yet.
    best: its metric.
    stale: number of evaluations after it.
  """

  step: int = 0
  best_step: int = 0
  best: float | None = None
  stale: int = 0

  def after(
    self, config: EarlyStoppingConfig, step: int, numbers: Mapping[str, float]
  ) -> 'Standing':
    """Return the standing after an evaluation; one without the metric does not count."""
    value = numbers.get(config.metric)
    if value is None:
      return dataclasses.replace(self, step=step)
    sign = config.sign
    if math.isfinite(value) and (self.best is None or sign * value > sign * self.best):
      return Standing(step, step, value, 0)
    return dataclasses.replace(self, step=step, stale=self.stale + 1)

  def is_over(self, config: EarlyStoppingConfig) -> bool:
    """Return True if the run should stop."""
    return 0 < config.patience <= self.stale
