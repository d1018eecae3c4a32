"""The loop of `mixer-jax train` beside its bare step, and what saving a state costs."""

import contextlib
import itertools
import math
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from mixer_jax.bench import measure
from mixer_jax.bench.programs import Fed, Program
from mixer_jax.bench.suite import Bench
from mixer_jax.checkpoints.store import Store
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.runlog.metrics import MetricsFile
from mixer_jax.runlog.progress import Progress
from mixer_jax.runs.base_hooks import BaseHooks
from mixer_jax.training.loop import Verdict, train
from mixer_jax.training.step import Batch, TrainState, TrainStep

_LEAST_STEPS = 4
"""Of a round: the loop's first step waits for its batch, as no later one does."""
_ROUND_SECONDS = 3.0


class _Rounds(BaseHooks):
  """Hooks that leave out what ends a run; each round of the measurement is one for the loop."""

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Is measured on its own."""
    return Verdict(save=False, stop=False)

  def save(self, step: int, state: TrainState) -> None:
    """Comes at the beginning of a round instead, so that steps run beside the writing."""


class Loop:
  """The training loop with its hooks, to be run for some steps at a time.

  Args:
    batches: this process's, on the host.
    folder: of the run.
    log_every: steps between rows of `metrics.jsonl`.
  """

  def __init__(
    self,
    train_step: TrainStep,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    mesh,
    folder: str,
    *,
    batch_size: int,
    log_every: int = 1,
  ):
    self.state, self._train_step, self._mesh = state, train_step, mesh
    self._on_mesh: Iterator[Batch] = meshes.put_all(mesh, batches)
    self._step = 0
    file = MetricsFile(folder) if jax.process_index() == 0 else None
    progress = Progress(
      file,
      total_steps=2**31 - 1,
      batch_size=batch_size,
      log_every=log_every,
      started=time.monotonic(),
      shown=False,  # all but the writing is done
    )
    self.store = Store(folder, keep=1)
    self._hooks = _Rounds(
      self.store,
      progress,
      processes.Preemption(),
      log_every=log_every,
      tensorboard=None,
      startup=None,
    )

  def run(self, steps: int) -> None:
    """So many steps through the loop, told and checked; the state is ready at the end."""
    self.state = train(
      self.state,
      self._train_step,
      self._on_mesh,
      self._hooks,
      first_step=self._step,
      evaluated_step=self._step,
      total_steps=self._step + steps,
      eval_every=0,
      save_every=0,
    )
    self._step += steps

  def run_bare(self, steps: int, batch: Batch) -> None:
    """So many steps with nothing around them, on one batch that is on the devices."""
    metrics = None
    for _ in range(steps):
      self.state, metrics = self._train_step(self.state, batch)
    jax.block_until_ready(metrics)

  def save(self) -> None:
    """Begins to save the state."""
    self._hooks.save_state(self._step, self.state, {})


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[str]:
  """A folder for a run that nobody wants to keep; below `folder`, if given."""
  with tempfile.TemporaryDirectory(dir=folder, prefix='mixer_jax_bench_') as name:
    yield name


def loop(bench: Bench, fed: Fed) -> dict[str, Any]:
  """The loop on random images that lie on the host."""
  shapes = fed.shapes[1]
  local = fed.size // jax.process_count()
  draw = np.random.default_rng(jax.process_index())
  made = [
    {
      'image': draw.integers(0, 256, (local, *shapes['image'].shape[1:]), np.uint8),
      'label': draw.integers(0, bench.model.num_classes, local, np.int32),
    }
    for _ in range(2)
  ]
  with scratch(bench.folder) as folder:
    run = Loop(
      fed.program.function,
      fed.weights,
      itertools.cycle(made),
      bench.mesh,
      folder,
      batch_size=fed.size,
    )
    return {
      'batch_size': fed.size,
      **compared(run, fed.batch, fed.size, bench.rounds, bench.steps_a_round),
    }


def compared(
  run: Loop, batch: Batch, size: int, rounds: int, steps_a_round: int | None
) -> dict[str, Any]:
  """The loop, with and without a save, beside the bare step, in turns.

  A round with a save begins with it, and the steps run beside the writing.
  """
  run.run_bare(2, batch)
  begun = time.perf_counter()
  run.run_bare(1, batch)
  step_seconds = time.perf_counter() - begun
  steps = steps_a_round or max(math.ceil(_ROUND_SECONDS / step_seconds), _LEAST_STEPS)
  steps = round(processes.agreed(steps))

  def saving():
    run.save()
    run.run(steps)

  works = {
    'bare': lambda: run.run_bare(steps, batch),
    'loop': lambda: run.run(steps),
    'saving': saving,
  }
  seconds = measure.interleaved(works, rounds, between=lambda name: run.store.wait())
  bare, inside = (statistics.median(seconds[name]) / steps for name in ('bare', 'loop'))
  share = measure.ratio(seconds['bare'], seconds['loop'])
  save = statistics.median(a - b for a, b in zip(seconds['saving'], seconds['loop'], strict=True))
  return {
    'images_per_second': size / inside,
    'images_per_second_per_device': size / inside / jax.device_count(),
    'bare_step_seconds': bare,
    'share_of_step': share,
    'save_seconds': save,
    'share_with_saves': share * 60 / (60 + max(save, 0)),
    'rounds': rounds,
    'steps_a_round': steps,
  }


def checkpoint(bench: Bench, program: Program) -> dict[str, Any]:
  """Saving a training state and restoring it, with nothing beside."""
  state = program.weights()
  parts = {'params': state.params, 'optimizer': state.opt_state}
  blocked, written = [], []
  with scratch(bench.folder) as folder:
    store = Store(folder, keep=1)
    for step in range(1, bench.rounds + 2):  # the first compiles the digests
      begun = time.perf_counter()
      store.save(step, parts, {})
      blocked.append(time.perf_counter() - begun)
      store.wait()
      written.append(time.perf_counter() - begun)
    abstract = {'params': program.abstract.params, 'optimizer': program.abstract.opt_state}
    begun = time.perf_counter()
    jax.block_until_ready(store.restore(abstract))
    restored = time.perf_counter() - begun
  return {
    'bytes': sum(leaf.nbytes for leaf in flatten(parts).values()),
    'first_blocked_seconds': blocked[0],
    'blocked_seconds': statistics.median(blocked[1:]),
    'written_seconds': statistics.median(written[1:]),
    'restored_seconds': restored,
    'rounds': bench.rounds,
  }
