"""Speed of the loop of `mixer-jax train` compared with its bare step, and the cost of saving."""

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
from jax.sharding import Mesh

from mixer_jax.bench import measure
from mixer_jax.bench.programs import LoadedProgram, Program
from mixer_jax.bench.settings import BenchSettings
from mixer_jax.checkpoints.store import Store
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.parallel.preemption import Preemption
from mixer_jax.runlog.metrics import MetricsFile
from mixer_jax.runlog.progress import Progress
from mixer_jax.runs.base_hooks import BaseHooks
from mixer_jax.training.loop import Verdict, train
from mixer_jax.training.step import Batch, TrainState, TrainStep

_LEAST_STEPS = 4
"""Minimum per round, as the first step of the loop waits for its batch and no later one does."""
_ROUND_SECONDS = 3.0


class _Rounds(BaseHooks):
  """Hooks without final evaluation and save: each benchmark round calls the loop once."""

  def evaluate(self, step: int, state: TrainState) -> Verdict:
    """Do nothing: evaluation is measured separately."""
    return Verdict(save=False, stop=False)

  def save(self, step: int, state: TrainState) -> None:
    """Do nothing: a round saves at its beginning, so that steps run during the write."""


class Loop:
  """The training loop with its hooks, run for some steps at a time.

  Args:
    batches: batches of this process, on the host.
    folder: the workdir.
    log_every: steps between rows of `metrics.jsonl`.
  """

  def __init__(
    self,
    train_step: TrainStep,
    state: TrainState,
    batches: Iterator[dict[str, np.ndarray]],
    mesh: Mesh,
    folder: str,
    *,
    batch_size: int,
    log_every: int = 1,
  ):
    self.state, self._train_step, self._mesh = state, train_step, mesh
    self._on_mesh: Iterator[Batch] = meshes.put_all(mesh, batches)
    self._step = 0
    file = MetricsFile(folder) if processes.is_main() else None
    progress = Progress(
      file,
      total_steps=2**31 - 1,
      batch_size=batch_size,
      log_every=log_every,
      started=time.monotonic(),
      shown=False,  # everything else is done as in a run
    )
    self.store = Store(folder, keep=1)
    self._hooks = _Rounds(
      self.store,
      progress,
      Preemption(),
      log_every=log_every,
      tensorboard=None,
      startup=None,
    )

  def run(self, steps: int) -> None:
    """Run `steps` steps through the loop, logged and checked; the state is ready at the end."""
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
    """Run `steps` steps with nothing around them, on one batch that is on the devices."""
    metrics = None
    for _ in range(steps):
      self.state, metrics = self._train_step(self.state, batch)
    jax.block_until_ready(metrics)

  def save(self) -> None:
    """Start to save the state."""
    self._hooks.save_state(self._step, self.state, {})


@contextlib.contextmanager
def scratch(folder: str | None) -> Iterator[str]:
  """Provide a temporary workdir, inside `folder` if given."""
  with tempfile.TemporaryDirectory(dir=folder, prefix='mixer_jax_bench_') as name:
    yield name


def loop(settings: BenchSettings, mesh: Mesh, loaded: LoadedProgram) -> dict[str, Any]:
  """Measure the loop on random images that are in host memory."""
  image = loaded.shapes[1]['image']
  part, parts = meshes.own_part(mesh)
  local, draw = loaded.size // parts, np.random.default_rng(part)
  made = [
    {
      'image': draw.integers(0, 256, (local, *image.shape[1:]), np.uint8),
      'label': draw.integers(0, settings.model.num_classes, local, np.int32),
    }
    for _ in range(2)
  ]
  with scratch(settings.folder) as folder:
    run = Loop(
      loaded.program.function,
      loaded.weights,
      itertools.cycle(made),
      mesh,
      folder,
      batch_size=loaded.size,
    )
    row = compared(run, loaded, settings.rounds, settings.steps_per_round)
  return {'batch_size': loaded.size, **row}


def compared(
  run: Loop, loaded: LoadedProgram, rounds: int, steps_per_round: int | None
) -> dict[str, Any]:
  """Measure the loop, with and without a save, and the bare step, in turns.

  A round with a save begins with it, and its steps run during the write.
  """
  batch, size = loaded.batch, loaded.size
  run.run_bare(2, batch)
  begun = time.perf_counter()
  run.run_bare(1, batch)
  step_seconds = time.perf_counter() - begun
  steps = steps_per_round or max(math.ceil(_ROUND_SECONDS / step_seconds), _LEAST_STEPS)
  steps = round(processes.agreed(steps))

  def saving():
    run.save()
    run.run(steps)

  works = {
    'bare': lambda: run.run_bare(steps, batch),
    'loop': lambda: run.run(steps),
    'saving': saving,
  }
  seconds = measure.interleaved(works, rounds, after=lambda name: run.store.wait())
  bare, inside = (statistics.median(seconds[name]) / steps for name in ('bare', 'loop'))
  share = measure.ratio(seconds['bare'], seconds['loop'])
  save = statistics.median(a - b for a, b in zip(seconds['saving'], seconds['loop'], strict=True))
  return {
    'images_per_second': size / inside,
    'images_per_second_per_device': size / inside / loaded.devices,
    'bare_step_seconds': bare,
    'share_of_step': share,
    'save_seconds': save,
    'share_with_saves': share * 60 / (60 + max(save, 0)),
    'rounds': rounds,
    'steps_a_round': steps,
  }


def checkpoint(settings: BenchSettings, program: Program) -> dict[str, Any]:
  """Measure saving a training state and restoring it, while nothing else runs."""
  state = program.weights()
  parts = state.parts()
  blocked, written = [], []
  with scratch(settings.folder) as folder:
    store = Store(folder, keep=1)
    for step in range(1, settings.rounds + 2):  # the first compiles the digests
      begun = time.perf_counter()
      store.save(step, parts, {})
      blocked.append(time.perf_counter() - begun)
      store.wait()
      written.append(time.perf_counter() - begun)
    begun = time.perf_counter()
    jax.block_until_ready(store.restore(program.abstract.parts()))
    restored = time.perf_counter() - begun
  return {
    'bytes': sum(leaf.nbytes for leaf in flatten(parts).values()),
    'first_blocked_seconds': blocked[0],
    'blocked_seconds': statistics.median(blocked[1:]),
    'written_seconds': statistics.median(written[1:]),
    'restored_seconds': restored,
    'rounds': settings.rounds,
  }
