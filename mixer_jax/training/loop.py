"""The training loop: dispatch, check, log, evaluate, save, in this order, and stop.

It knows no model, no data set and no file: these come as arguments. Step n is
dispatched before the metrics of step n-1 are read, so the device always has work.
"""

import math
from collections.abc import Iterator
from typing import Protocol

import jax

from mixer_jax.errors import NotFiniteError, PreemptedError
from mixer_jax.training.step import Batch, TrainState, TrainStep


class Hooks(Protocol):
  """What happens around the steps. `step` counts steps taken, from 1."""

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """Step `step` is done and finite."""
    ...

  def evaluate(self, step: int, state: TrainState) -> None:
    """Evaluation is due."""
    ...

  def told_to_leave(self, step: int) -> bool:
    """Whether the run is to save its state of this step and leave. Asked at every step."""
    ...

  def save(self, step: int, state: TrainState) -> None:
    """A save is due. The state may be donated as soon as this returns."""
    ...


def train(
  state: TrainState,
  train_step: TrainStep,
  batches: Iterator[Batch],
  hooks: Hooks,
  *,
  first_step: int,
  total_steps: int,
  eval_every: int,
  save_every: int,
) -> TrainState:
  """Trains from step `first_step` (steps already taken) to `total_steps`.

  `batches` yields global arrays on the mesh. Evaluates and saves every so many steps
  (0: never) and at the end.

  Raises:
    PreemptedError: the run was told to leave; the state was saved.
    NotFiniteError: loss or gradient norm of a step is not finite. That step's state, or
      any later one, was not saved.
  """
  pending: tuple[int, dict[str, jax.Array]] | None = None
  for step in range(first_step + 1, total_steps + 1):
    batch = next(batches)
    with jax.transfer_guard('disallow'):
      state, metrics = train_step(state, batch)
    if pending is not None:
      _settle(hooks, *pending)
    pending = (step, metrics)
    due = lambda every, step=step: step == total_steps or (every > 0 and step % every == 0)
    leaves = step < total_steps and hooks.told_to_leave(step)
    if leaves or due(eval_every) or due(save_every):
      _settle(hooks, *pending)
      pending = None
      if due(eval_every) and not leaves:
        hooks.evaluate(step, state)
      if due(save_every) or leaves:
        hooks.save(step, state)
    if leaves:
      raise PreemptedError(f'told to leave at step {step}')
  return state


def _settle(hooks: Hooks, step: int, metrics: dict[str, jax.Array]) -> None:
  """Waits for a step's metrics, checks and reports them."""
  values = {name: float(value) for name, value in jax.device_get(metrics).items()}
  for name in ('loss', 'grad_norm'):
    if not math.isfinite(values[name]):
      raise NotFiniteError(
        f'step {step}: {name} is {values[name]}: the run stops, and no state from this step on was '
        'saved; lower the learning rate, or look at the data around this step'
      )
  hooks.step(step, values)
