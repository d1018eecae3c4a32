"""Hooks that every training loop needs: logging, checkpointing, interruption."""

import logging
import time
from typing import Any

from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import PreemptedError
from mixer_jax.parallel import processes
from mixer_jax.parallel.preemption import Preemption
from mixer_jax.runlog import streams
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.startup import Startup
from mixer_jax.training.step import TrainState

log = logging.getLogger(__name__)


class BaseHooks:
  """The part of `training.loop.Hooks` that needs no data.

  Args:
    tensorboard: folder of its events; None: none are written.
    startup: is logged, and ends, with the first step.
  """

  def __init__(
    self,
    store: Store,
    progress: Progress,
    preemption: Preemption,
    *,
    log_every: int,
    tensorboard: str | None,
    startup: Startup | None,
  ):
    self._store, self._progress, self._preemption = store, progress, preemption
    self._log_every, self._startup = log_every, startup
    self._tensorboard = _writer(tensorboard) if tensorboard else None
    self._lost_outputs: set[str] = set()

  def step(self, step: int, metrics: dict[str, float]) -> None:
    """Logs a step."""
    if self._startup is not None:
      self._log_startup(self._startup, step)
      self._startup = None
    row = self._progress.step(step, metrics)
    self._log_lost_outputs(step)
    if row is not None:
      self.logged(row, metrics)

  def logged(self, row: dict[str, Any], metrics: dict[str, float]) -> None:
    """Called with the row of a step that is logged."""
    if self._tensorboard and row['step'] % self._log_every == 0:
      wait = row['input_wait']
      self._tensorboard.scalars(
        row['step'], metrics if wait is None else {**metrics, 'input_wait': wait}
      )

  def should_stop(self, step: int) -> bool:
    """Return True if a signal asks for it; all processes agree."""
    stops = self._preemption.reached()
    if stops:
      self._progress.event('preempted', step=step)
    return stops

  def stopped(self, step: int) -> PreemptedError:
    """Return the error of a run that stops after this step."""
    return self._preemption.error(f'at step {step}')

  def save_state(
    self, step: int, state: TrainState, metadata: dict[str, Any], best: int | None = None
  ) -> None:
    """Starts to save the state and logs how long training was blocked. See `Store.save`."""
    started = time.monotonic()
    self._store.save(step, state.parts(), metadata, best=best)
    self._progress.event('save', step=step, blocked=round(time.monotonic() - started, 4))
    self._progress.pause()

  def close(self) -> None:
    """Writes what is buffered."""
    self._progress.flush()
    if self._tensorboard:
      self._tensorboard.flush()

  def _log_lost_outputs(self, step: int) -> None:
    """Writes a row for each standard stream that has failed; the run does not need it."""
    for stream, reason in streams.lost().items():
      if stream not in self._lost_outputs:
        self._lost_outputs.add(stream)
        self._progress.event('output_lost', step=step, stream=stream, reason=reason)

  def _log_startup(self, startup: Startup, step: int) -> None:
    startup.mark('first step')
    log.info('%s', startup.summary())
    self._progress.event('startup', step=step, **startup.row())


def _writer(folder: str):
  if not processes.is_main():
    return None
  from mixer_jax.runlog.tensorboard import TensorBoardFile  # bench runs without its checksums

  return TensorBoardFile(folder)
