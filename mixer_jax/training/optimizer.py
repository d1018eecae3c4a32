"""The paper's two optimizers: Adam to pre-train, momentum SGD to fine-tune."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import optax

from mixer_jax import models
from mixer_jax.errors import UserError

Schedule = Callable[[jax.typing.ArrayLike], Any]
"""Learning rate, a float scalar, as a function of the step (0 for the first update)."""


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Attributes:
  name: 'adam' (with decoupled weight decay) or 'sgd' (with momentum).
  learning_rate: the peak, reached at the end of the warm-up.
  warmup_steps: steps of linear warm-up from 0.
  schedule: decay after the warm-up, to 0 at the last step: 'linear', 'cosine'
    or 'constant' (no decay).
  weight_decay: share of a parameter subtracted in each step, times the learning rate. The table
    of the model's family says which parameters: kernels, neither biases nor scales.
  clip_norm: gradients of a larger global norm are scaled down to this norm; 0: never.
  b1, b2, eps: Adam's.
  momentum: SGD's.
  """

  name: str
  learning_rate: float
  warmup_steps: int
  schedule: str
  weight_decay: float
  clip_norm: float
  b1: float
  b2: float
  eps: float
  momentum: float

  def __post_init__(self):
    if self.name not in ('adam', 'sgd'):
      raise UserError(f"optimizer.name must be 'adam' or 'sgd', not {self.name!r}")
    if self.schedule not in ('linear', 'cosine', 'constant'):
      raise UserError(
        f"optimizer.schedule must be 'linear', 'cosine' or 'constant', not {self.schedule!r}"
      )
    if type(self.warmup_steps) is not int or not 0 <= self.warmup_steps < 2**31:
      raise UserError(
        f'optimizer.warmup_steps must be 0 or more and below 2^31, is {self.warmup_steps!r}'
      )
    for field in ('learning_rate', 'weight_decay', 'clip_norm', 'eps'):
      if not 0 <= getattr(self, field) < math.inf:
        raise UserError(f'optimizer.{field} must be 0 or more, is {getattr(self, field)!r}')
    for field in ('b1', 'b2', 'momentum'):
      if not 0 <= getattr(self, field) < 1:
        raise UserError(f'optimizer.{field} must be in [0, 1), is {getattr(self, field)!r}')


PAPER_ADAM = OptimizerConfig(
  name='adam',
  learning_rate=1e-3,
  warmup_steps=10_000,
  schedule='linear',
  weight_decay=0.1,
  clip_norm=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  momentum=0.9,
)
"""The paper's optimizer for pre-training."""


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
  """Return the warm-up, then the decay that `config` names; a short run ends in its warm-up."""
  peak, warmup = config.learning_rate, config.warmup_steps
  rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
  if warmup >= total_steps:
    return rise
  decay = {
    'linear': lambda: optax.linear_schedule(peak, 0.0, total_steps - warmup),
    'cosine': lambda: optax.cosine_decay_schedule(peak, total_steps - warmup),
    'constant': lambda: optax.constant_schedule(peak),
  }[config.schedule]()
  if not warmup:
    return decay
  return optax.join_schedules([rise, decay], [warmup])


def make_optimizer(
  config: OptimizerConfig, schedule: Schedule, decayed: Callable[[Any], Any] = models.decayed
) -> optax.GradientTransformation:
  """Return the chain of clipping, optimizer and decay; its updates are added to the parameters.

  Adam with decay .1 at learning rate .001 is what the authors' code writes as decay
  1e-4 not multiplied by the learning rate (Appendix B; see also Loshchilov & Hutter).

  Args:
    decayed: params -> tree of bools, those that weight decay applies to. By default the family of
      the model says so.
  """
  direction = {
    'adam': lambda: optax.scale_by_adam(config.b1, config.b2, config.eps),
    'sgd': lambda: optax.trace(config.momentum),
  }[config.name]()
  chain = [direction, optax.scale_by_learning_rate(schedule)]
  if config.clip_norm:
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.weight_decay:
    chain.insert(-1, optax.add_decayed_weights(config.weight_decay, mask=decayed))
  return optax.chain(*chain)
