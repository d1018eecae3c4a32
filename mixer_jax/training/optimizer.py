"""The paper's two optimizers: Adam to pre-train, momentum SGD to fine-tune."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import optax

from mixer_jax import models
from mixer_jax.errors import UserError

Schedule = Callable[[jax.typing.ArrayLike], Any]
"""Learning rate, a float scalar, as a function of the step (0 for the first update)."""


_CHOICES = {
  'name': ('adam', 'sgd'),
  'schedule': ('linear', 'cosine', 'steps', 'constant'),
  'weight_decay_times': ('learning_rate', 'schedule'),
  'momentum_dtype': ('float32', 'bfloat16'),
}


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
  """Attributes:
  name: 'adam' (with decoupled weight decay) or 'sgd' (with momentum).
  learning_rate: the peak, reached at the end of the warm-up.
  warmup_steps: steps of linear warm-up from 0.
  schedule: decay after the warm-up, to the end: 'linear', 'cosine', 'steps' or 'constant' (no
    decay).
  decay_at: of 'steps', the shares of all steps after which the rate is divided by 10 (Kolesnikov
    et al. 2020, section 3); () for the others.
  end_factor: learning rate at the end of 'linear' and 'cosine', as a share of the peak.
  weight_decay: share of a parameter subtracted in each step, times `weight_decay_times`. The table
    of the model's family says which parameters: kernels, neither biases nor scales.
  weight_decay_times: 'learning_rate', or 'schedule', the learning rate as a share of its peak.
  clip_norm: gradients of a larger global norm are scaled down to this norm; 0: never.
  b1, b2, eps: Adam's.
  momentum: SGD's.
  momentum_dtype: type in which SGD's momentum, or Adam's first moment, is kept, 'float32' or
    'bfloat16'.
  sam_rho: radius of sharpness-aware minimisation (`training.sam`), in the norm of all parameters;
    0: off.
  sam_rho_end: radius at the last learning rate; it follows the rate from `sam_rho` at the peak, as
    in GSAM (Algorithm 1). 0: always `sam_rho`.
  sam_alpha: weight of the component of the gradient that GSAM subtracts; 0: SAM.
  """

  name: str
  learning_rate: float
  warmup_steps: int
  schedule: str
  decay_at: tuple[float, ...]
  end_factor: float
  weight_decay: float
  weight_decay_times: str
  clip_norm: float
  b1: float
  b2: float
  eps: float
  momentum: float
  momentum_dtype: str
  sam_rho: float
  sam_rho_end: float
  sam_alpha: float

  def __post_init__(self):
    for field, choices in _CHOICES.items():
      if getattr(self, field) not in choices:
        listed = ' or '.join(map(repr, choices)).replace(' or ', ', ', len(choices) - 2)
        raise UserError(f'optimizer.{field} must be {listed}, not {getattr(self, field)!r}')
    if type(self.warmup_steps) is not int or not 0 <= self.warmup_steps < 2**31:
      raise UserError(
        f'optimizer.warmup_steps must be 0 or more and below 2^31, is {self.warmup_steps!r}'
      )
    for field in (
      'learning_rate', 'weight_decay', 'clip_norm', 'eps', 'sam_rho', 'sam_rho_end', 'sam_alpha',
    ):  # fmt: skip
      if not 0 <= getattr(self, field) < math.inf:
        raise UserError(f'optimizer.{field} must be 0 or more, is {getattr(self, field)!r}')
    for field in ('b1', 'b2', 'momentum'):
      if not 0 <= getattr(self, field) < 1:
        raise UserError(f'optimizer.{field} must be in [0, 1), is {getattr(self, field)!r}')
    if bool(self.decay_at) != (self.schedule == 'steps'):
      raise UserError(
        "optimizer.decay_at and optimizer.schedule='steps' need each other: shares of all steps, "
        f'as in 0.3,0.6,0.9; they are {self.decay_at!r} and {self.schedule!r}'
      )
    if not all(a < b for a, b in itertools.pairwise((0, *self.decay_at, 1))):
      raise UserError(
        'optimizer.decay_at must be shares of all steps between 0 and 1, ascending, as in '
        f'0.3,0.6,0.9; is {self.decay_at!r}'
      )
    if not 0 <= self.end_factor <= 1:
      raise UserError(f'optimizer.end_factor must be in [0, 1], is {self.end_factor!r}')
    if self.weight_decay_times == 'schedule' and not self.learning_rate:
      raise UserError(
        'optimizer.weight_decay_times=schedule needs an optimizer.learning_rate above 0'
      )
    self._check_sam()

  def _check_sam(self):
    if not self.sam_rho:
      for field in ('sam_rho_end', 'sam_alpha'):
        if getattr(self, field):
          raise UserError(
            f'optimizer.{field}={getattr(self, field)} needs an optimizer.sam_rho above 0: set it, '
            f'or {field}=0'
          )
    elif self.sam_rho_end > self.sam_rho:
      raise UserError(
        f'optimizer.sam_rho_end must be at most sam_rho ({self.sam_rho}), is {self.sam_rho_end}'
      )
    elif self.sam_rho_end and not self._decays:
      raise UserError(
        f'optimizer.sam_rho_end={self.sam_rho_end} follows a learning rate that decays: set '
        'learning_rate, schedule and end_factor so, or sam_rho_end=0'
      )

  @property
  def _decays(self) -> bool:
    return self.learning_rate > 0 and self.schedule != 'constant' and self.end_factor < 1


PAPER_ADAM = OptimizerConfig(
  name='adam',
  learning_rate=1e-3,
  warmup_steps=10_000,
  schedule='linear',
  decay_at=(),
  end_factor=0.0,
  weight_decay=0.1,
  weight_decay_times='learning_rate',
  clip_norm=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  momentum=0.9,
  momentum_dtype='float32',
  sam_rho=0.0,
  sam_rho_end=0.0,
  sam_alpha=0.0,
)
"""The paper's optimizer for pre-training."""


def make_schedule(config: OptimizerConfig, total_steps: int) -> Schedule:
  """Return the warm-up, then the decay that `config` names; a short run ends in its warm-up."""
  peak, warmup, end = config.learning_rate, config.warmup_steps, config.end_factor
  rise = optax.linear_schedule(0.0, peak, max(warmup, 1))
  if warmup >= total_steps:
    return rise
  decay = {
    'linear': lambda: optax.linear_schedule(peak, end * peak, total_steps - warmup),
    'cosine': lambda: optax.cosine_decay_schedule(peak, total_steps - warmup, end),
    'steps': lambda: _steps(peak, [round(s * total_steps) - warmup for s in config.decay_at]),
    'constant': lambda: optax.constant_schedule(peak),
  }[config.schedule]()
  if not warmup:
    return decay
  return optax.join_schedules([rise, decay], [warmup])


def _steps(peak: float, decays: Sequence[int]) -> Schedule:
  """Return a rate that is divided by 10 at each of these steps; a short run has some at once."""
  factors = {at: 0.1**times for at, times in collections.Counter(decays).items()}
  return optax.piecewise_constant_schedule(peak, factors)


def make_optimizer(
  config: OptimizerConfig, schedule: Schedule, decayed: Callable[[Any], Any] = models.decayed
) -> optax.GradientTransformation:
  """Return the chain of clipping, optimizer and decay; its updates are added to the parameters.

  Adam with decay .1 at learning rate .001 is what the authors' code writes as decay
  1e-4 not multiplied by the learning rate, but by the schedule (Appendix B; see also Loshchilov &
  Hutter).

  Args:
    decayed: params -> tree of bools, those that weight decay applies to. By default the family of
      the model says so.
  """
  accumulator = None if config.momentum_dtype == 'float32' else config.momentum_dtype
  direction = {
    'adam': lambda: optax.scale_by_adam(config.b1, config.b2, config.eps, mu_dtype=accumulator),
    'sgd': lambda: optax.trace(config.momentum, accumulator_dtype=accumulator),
  }[config.name]()
  chain = [direction, optax.scale_by_learning_rate(schedule)]
  if config.clip_norm:
    chain.insert(0, optax.clip_by_global_norm(config.clip_norm))
  if config.weight_decay:
    by_rate = config.weight_decay_times == 'learning_rate'
    decay = config.weight_decay / (1 if by_rate else config.learning_rate)
    chain.insert(-1, optax.add_decayed_weights(decay, mask=decayed))
  return optax.chain(*chain)
