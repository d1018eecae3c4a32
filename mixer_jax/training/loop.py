"""The training loop: dispatch, check, log, evaluate, save, in this order, and stop.

It knows no model, no data set and no file: these come as arguments. Step n is
dispatched before the metrics of step n-1 are read, so the device always has work.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax

from mixer_jax.errors import NotFiniteError, PreemptedError
from mixer_jax.training.step import Batch, TrainState, TrainStep


class Verdict(NamedTuple):
  """What follows from an evaluation."""

  save: bool
  """The state is to be saved, also where no save is due."""
  stop: bool
  """The run ends with this step, whose state is saved."""


class Hooks(Protocol):
  """What happens around the steps. `step` counts steps taken, from 1."""

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """Step `step` is done and finite."""
    ...

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Evaluation is due. The same verdict in all processes."""
    ...

  def should_stop(self, step: int) -> bool:
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
  evaluated_step: int,
  total_steps: int,
  eval_every: int,
  save_every: int,
) -> TrainState:
  """Trains from step `first_step` (steps already taken) to `total_steps`, or to a verdict.

  `batches` yields global arrays on the mesh. Evaluates and saves every so many steps
  (0: never) and at the end. A run that was told to leave had no time for an evaluation:
  where `evaluated_step`, that of the last one, lies before a `first_step` at which one was
  due, it comes first.

  Raises:
    PreemptedError: the run was told to leave; the state was saved.
    NotFiniteError: loss or gradient norm of a step is not finite. That step's state, or
      any later one, was not saved.
  """
  due = lambda every, step: step == total_steps or (every > 0 and step % every == 0)
  is_owed = evaluated_step < first_step and due(eval_every, first_step)
  if is_owed and hooks.evaluate(first_step, state).stop:  # the state is saved already
    return state
  pending: tuple[int, dict[str, jax.Array]] | None = None
  for step in range(first_step + 1, total_steps + 1):
    batch = next(batches)
    with jax.transfer_guard('disallow'):
      state, metrics = train_step(state, batch)
    if pending is not None:
      _settle(hooks, *pending)
    pending = (step, metrics)
    leaves = step < total_steps and hooks.should_stop(step)
    if leaves or due(eval_every, step) or due(save_every, step):
      _settle(hooks, *pending)
      pending, verdict = None, Verdict(save=leaves, stop=False)
      if due(eval_every, step) and not leaves:
        verdict = hooks.evaluate(step, state)
      if due(save_every, step) or verdict.save or verdict.stop:
        hooks.save(step, state)
      if verdict.stop:
        return state
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
