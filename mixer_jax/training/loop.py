"""The training loop: dispatch, check, log, save, evaluate, in this order, and stop.

It knows no model, data set or file; they are arguments. Step n is dispatched before the metrics
of step n-1 are read, so that the device always has work.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import jax

from mixer_jax.errors import NotFiniteError, PreemptedError
from mixer_jax.training.input_wait import InputWait
from mixer_jax.training.step import Batch, TrainState, TrainStep


class Verdict(NamedTuple):
  """Consequences of an evaluation."""

  save: bool
  """Save the state, even if no save is due."""
  stop: bool
  """End the run with this step; its state is saved."""


class Hooks(Protocol):
  """Callbacks of the loop. `step` counts the steps taken, from 1."""

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """Called after a step whose loss and gradients are finite."""
    ...

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Called when an evaluation is due. All processes return the same verdict.

    Raises:
      PreemptedError: the run was asked to exit, and the evaluation is left out.
    """
    ...

  def should_stop(self, step: int) -> bool:
    """Return True if the run should save its state and exit. Called after every step."""
    ...

  def stopped(self, step: int) -> PreemptedError:
    """Return the error that a run exits with."""
    ...

  def save(self, step: int, state: TrainState) -> None:
    """Called when a save is due. The state may be donated as soon as this returns.

    Called again for a step that was evaluated after its save: the arrays are the same, and what is
    stored with them has changed.
    """
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
  input_wait: InputWait | None = None,
) -> TrainState:
  """Train from `first_step` (steps already taken) to `total_steps`, or until a verdict stops.

  Saves and evaluates every `save_every` and `eval_every` steps (0: never) and at the end; the save
  comes first, since an evaluation takes time that a preempted run does not have. If an evaluation
  was due at `first_step` and `evaluated_step`, the step of the last one, is earlier, it is made
  first.

  Args:
    batches: global arrays on the mesh.
    input_wait: measures whether the devices wait for `batches`.

  Raises:
    PreemptedError: the run was asked to exit; its state was saved.
    NotFiniteError: the loss or gradient norm of a step is not finite. No state was saved from
      that step on.
  """
  due = lambda every, step: step == total_steps or (every > 0 and step % every == 0)
  is_overdue = evaluated_step < first_step and due(eval_every, first_step)
  if is_overdue:
    verdict = hooks.evaluate(first_step, state)
    hooks.save(first_step, state)
    if verdict.stop:
      return state
  pending: tuple[int, dict[str, jax.Array]] | None = None
  input_wait = input_wait or InputWait()
  with input_wait.measured():
    for step in range(first_step + 1, total_steps + 1):
      batch = input_wait.next(batches)
      with jax.transfer_guard('disallow'):
        state, metrics = train_step(state, batch)
      input_wait.dispatched(batch, metrics)
      if pending is not None:
        _settle(hooks, *pending)
      pending = (step, metrics)
      exits = step < total_steps and hooks.should_stop(step)
      saves, evaluates = exits or due(save_every, step), not exits and due(eval_every, step)
      if saves or evaluates:
        _settle(hooks, *pending)
        pending = None
        input_wait.pause()
      if saves:
        hooks.save(step, state)
      if exits:
        raise hooks.stopped(step)
      if evaluates and _evaluated(hooks, step, state, is_saved=saves).stop:
        return state
  return state


def _evaluated(hooks: Hooks, step: int, state: TrainState, *, is_saved: bool) -> Verdict:
  """Evaluate, and save where the verdict asks for it or changes what a saved state stores."""
  try:
    verdict = hooks.evaluate(step, state)
  except PreemptedError:
    if not is_saved:
      hooks.save(step, state)
    raise
  if is_saved or verdict.save or verdict.stop:
    hooks.save(step, state)
  return verdict


def _settle(hooks: Hooks, step: int, metrics: dict[str, jax.Array]) -> None:
  """Wait for the metrics of a step, check and report them."""
  values = {name: float(value) for name, value in jax.device_get(metrics).items()}
  for name in ('loss', 'grad_norm'):
    if not math.isfinite(values[name]):
      raise NotFiniteError(
        f'step {step}: {name} is {values[name]}: the run stops, and no state from this step on was '
        'saved; lower the learning rate, or check the data around this step'
      )
  hooks.step(step, values)
