"""A training run, from its config to the state in its workdir; goes on where it stopped."""

import dataclasses
import logging
import os
import signal
import time
from typing import Any

import jax
import numpy as np
from etils import epath
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mixer_jax import models
from mixer_jax.checkpoints.store import Store
from mixer_jax.commands import experiment, workdir
from mixer_jax.commands.experiment import Experiment
from mixer_jax.commands.hooks import Hooks
from mixer_jax.data import pipeline, recipes
from mixer_jax.errors import PreemptedError
from mixer_jax.evaluation.classify import Evaluation
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.reporting import pictures
from mixer_jax.reporting.metrics import MetricsFile, device_hours, read_metrics
from mixer_jax.reporting.progress import Progress
from mixer_jax.reporting.startup import Startup
from mixer_jax.reporting.terminal import Terminal, duration
from mixer_jax.training import step as steps
from mixer_jax.training.loop import train

log = logging.getLogger(__name__)


def run(config: ConfigDict, folder: str, terminal: Terminal, startup: Startup) -> None:
  """One start of a run. Everything is checked before anything is written."""
  known = processes.together(lambda: _known(config, folder))
  exp = experiment.check(config, known and known['model'])
  startup.mark('data')
  if jax.process_index():
    _run(exp, folder, terminal, startup)
    return
  if not known:
    workdir.write_run(folder, config, dataclasses.asdict(exp.model))
  with workdir.held(folder):
    _run(exp, folder, terminal, startup)


def _known(config: ConfigDict, folder: str) -> dict[str, Any] | None:
  """What was stored of the run that goes on; None of a new one."""
  known = workdir.stored_run(folder)
  if known:
    workdir.check_same_run(folder, config, known)
  else:
    workdir.check_free(folder)
  return known


def _run(exp: Experiment, folder: str, terminal: Terminal, startup: Startup) -> None:
  config, mesh, model = exp.config, exp.evaluated.mesh, exp.model
  train_step = steps.make_train_step(
    model,
    exp.optimizer,
    exp.schedule,
    mesh,
    loss=config.loss,
    seed=config.seed,
    accumulate=config.accumulate,
    mixup=exp.mixup,
  )

  writes = jax.process_index() == 0
  progress = Progress(
    terminal,
    MetricsFile(folder) if writes else None,
    total_steps=config.total_steps,
    batch_size=config.batch_size,
    log_every=config.log_every,
    started=startup.began,
  )
  store = Store(folder, keep=config.keep_checkpoints)
  state, first_step = _begin(exp, store, progress)
  jax.block_until_ready(state)
  startup.mark('restore' if first_step else 'init')
  _tell(model, mesh, whole=first_step == 0)
  batches = pipeline.train_batches(
    exp.source,
    exp.evaluated.data,
    image_size=model.image_size,
    batch_size=config.batch_size,
    seed=config.seed,
    first_step=first_step,
    process=experiment.this_process(),
  )
  preemption = processes.Preemption()
  hooks = Hooks(exp, store, progress, preemption, folder, startup)
  on_interrupt = signal.signal(signal.SIGINT, hooks.interrupt)
  try:
    with preemption:
      state = train(
        state,
        _first_marked(train_step, startup),
        meshes.put_all(mesh, batches),
        hooks,
        first_step=first_step,
        total_steps=config.total_steps,
        eval_every=config.eval_every,
        save_every=config.checkpoint_every,
      )
    store.wait()
  except BaseException as error:
    terminal.finish()
    # A save that is under way becomes whole, also when the run stops here; but a fault of this
    # process alone must not make it wait for others, who wait for it.
    if processes.is_alone() or isinstance(error, PreemptedError):
      store.wait()
    raise
  finally:
    signal.signal(signal.SIGINT, on_interrupt)
    terminal.finish()
    hooks.close()
  if hooks.evaluation is None:  # the run was complete already
    hooks.evaluate(config.total_steps, state)
  if writes and hooks.evaluation is not None:
    _report(exp, hooks.evaluation, progress, folder)


def _begin(exp: Experiment, store: Store, progress: Progress) -> tuple[steps.TrainState, int]:
  """The newest whole state of the run, or that of step 0; and its step. Tells of the start."""
  mesh = exp.evaluated.mesh
  abstract = steps.abstract_state(exp.model, exp.optimizer, mesh)
  restored = store.restore({'params': abstract.params, 'optimizer': abstract.opt_state})
  step, path = 0, None
  if restored is not None:
    step, parts = restored
    path = str(store.directory / str(step))
    count = meshes.put_replicated(mesh, {'step': np.int32(step)})['step']
    state = steps.TrainState(count, parts['params'], parts['optimizer'])
    log.info('restored %s: going on behind step %d', path, step)
  elif exp.initial_params is not None:
    state = steps.state_from_params(exp.initial_params(), exp.optimizer, mesh)
  else:
    state = steps.init_state(exp.model, exp.optimizer, mesh, exp.config.seed)
  for process, pid in enumerate(_pids()):
    progress.event(
      'start',
      step=step,
      restored=path,
      process=process,
      pid=pid,
      devices=jax.device_count(),
      device=jax.devices()[0].device_kind,
      time=time.time(),
    )
  return state, step


def _pids() -> list[int]:
  if jax.process_count() == 1:
    return [os.getpid()]
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(np.array(os.getpid())).tolist()


def _first_marked(train_step: steps.TrainStep, startup: Startup) -> steps.TrainStep:
  """The step, whose first call compiles it, behind the first batch."""
  called = False

  def step(state: steps.TrainState, batch: steps.Batch) -> tuple[steps.TrainState, steps.Metrics]:
    nonlocal called
    if called:
      return train_step(state, batch)
    called = True
    startup.mark('input')
    result = train_step(state, batch)
    startup.mark('compile')
    return result

  return step


def _tell(model: models.ModelConfig, mesh: Mesh, *, whole: bool) -> None:
  """The parameters (all of them, or how many) and the devices, on the screen."""
  from clu import parameter_overview

  table = f'{models.num_params(model):,} parameters'
  if whole:
    table = parameter_overview.get_parameter_overview(models.shapes(model), include_stats=False)
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  device = jax.devices()[0].device_kind
  gflop = models.forward_flops(model) / 1e9
  log.info('%s\n%s\n%.3g GFLOP an image forward; %s as %s', table, model, gflop, device, sizes)


def _report(exp: Experiment, result: Evaluation, progress: Progress, folder: str) -> None:
  """Pictures, and the sum of what the run has cost, into the workdir."""
  rows = read_metrics(folder)
  hours = device_hours([*rows, {'seconds': progress.seconds()}])
  progress.event('end', step=exp.config.total_steps, device_hours=hours, core_days=hours / 24)
  source, data = exp.evaluated.source, exp.evaluated.data
  shown = pictures.mistakes_first(result.labels, result.predictions, result.confidences, 40)
  size = exp.model.image_size
  images = [
    np.rint(
      recipes.eval_image(source[i]['image'], size, data.eval_recipe, data.eval_crop_fraction)
    ).astype(np.uint8)
    for i in shown
  ]
  drawn = {
    'curves.png': pictures.curves(rows),
    'predictions.png': pictures.predictions(
      images,
      result.labels[shown],
      result.predictions[shown],
      result.confidences[shown],
      source.classes,
    ),
  }
  for name, png in drawn.items():
    (epath.Path(folder) / name).write_bytes(png)
  log.info(
    'done: top-1 %.2f %%, %s on %d device(s); curves.png and predictions.png are in %s',
    result.top1,
    duration(3600 * hours / jax.device_count()),
    jax.device_count(),
    folder,
  )
