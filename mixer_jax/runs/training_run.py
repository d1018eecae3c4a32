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
from mixer_jax.data import pipeline, recipes
from mixer_jax.errors import NotFiniteError, PreemptedError
from mixer_jax.evaluation.classify import Evaluation
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.pictures import run_pictures
from mixer_jax.runlog import terminal
from mixer_jax.runlog.metrics import MetricsFile, device_hours, listed, read_metrics, undecodable
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.startup import Startup
from mixer_jax.runlog.terminal import duration
from mixer_jax.runs import experiment, workdir
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.hooks import Hooks
from mixer_jax.training import step as steps
from mixer_jax.training.early_stopping import Standing
from mixer_jax.training.loop import train

log = logging.getLogger(__name__)


def run(
  config: ConfigDict,
  folder: str,
  startup: Startup,
  *,
  one_of_many: bool = False,
) -> None:
  """One start of a run. Everything is checked before anything is written.

  Args:
    one_of_many: the table of its parameters is not shown.
  """
  known = processes.together(lambda: _known(config, folder))
  exp = experiment.check(config, known and known['model'])
  startup.mark('data')
  if jax.process_index():
    _run(exp, folder, startup, one_of_many)
    return
  if not known:
    workdir.write_run(folder, config, dataclasses.asdict(exp.model))
  with workdir.held(folder):
    _run(exp, folder, startup, one_of_many)


def _known(config: ConfigDict, folder: str) -> dict[str, Any] | None:
  """What was stored of the run that goes on; None of a new one."""
  known = workdir.stored_run(folder)
  if known:
    workdir.check_same_run(folder, config, known)
  else:
    workdir.check_free(folder)
  return known


def _run(exp: Experiment, folder: str, startup: Startup, one_of_many: bool) -> None:
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
    MetricsFile(folder) if writes else None,
    total_steps=exp.total_steps,
    batch_size=config.batch_size,
    log_every=config.log_every,
    started=startup.began,
  )
  store = Store(folder, keep=config.keep_checkpoints)
  state, first_step, standing = _begin(exp, store, progress)
  jax.block_until_ready(state)
  startup.mark('restore' if first_step else 'init')
  _tell(model, mesh, whole=first_step == 0 and not one_of_many)
  skipped: set[str] = set()
  batches = pipeline.train_batches(
    exp.source,
    exp.evaluated.data,
    image_size=model.image_size,
    batch_size=config.batch_size,
    seed=config.seed,
    first_step=first_step,
    process=experiment.this_process(),
    skipped=skipped,
  )
  preemption = processes.Preemption()
  hooks = Hooks(exp, store, progress, preemption, folder, startup, standing, skipped)
  on_interrupt = signal.signal(signal.SIGINT, hooks.interrupt)
  try:
    with preemption:
      if not standing.is_over(exp.early_stopping):
        state = train(
          state,
          _first_marked(train_step, startup),
          meshes.put_all(mesh, batches),
          hooks,
          first_step=first_step,
          evaluated_step=standing.step,
          total_steps=exp.total_steps,
          eval_every=config.eval_every,
          save_every=config.checkpoint_every,
        )
    store.wait()
  except BaseException as error:
    terminal.finish()
    # A save that is under way becomes whole, also when the run stops here; but a fault of this
    # process alone must not make it wait for others, who wait for it.
    if processes.is_alone() or isinstance(error, PreemptedError | NotFiniteError):
      store.wait()
    raise
  finally:
    signal.signal(signal.SIGINT, on_interrupt)
    terminal.finish()
    hooks.close()
  last = step = int(jax.device_get(state.step))
  params = state.weights
  if exp.keeps_best and hooks.standing.best_step not in (0, last):
    del state, params  # there may be no room for both
    step = hooks.standing.best_step
    params = _saved_params(exp, store, step)
  result = hooks.report(step, params)
  if writes:
    _report(exp, result, last, step, progress, folder)


def _saved_params(exp: Experiment, store: Store, step: int) -> dict:
  parts = steps.abstract_state(exp.model, exp.optimizer, exp.evaluated.mesh).parts()
  del parts['optimizer']
  saved = store.read(step, parts)
  return models.join(saved['params'], saved.get('model_state', {}))


def _begin(
  exp: Experiment, store: Store, progress: Progress
) -> tuple[steps.TrainState, int, Standing]:
  """The newest whole state of the run, or that of step 0; its step, and how the run stood then.

  Tells of the start.
  """
  mesh = exp.evaluated.mesh
  abstract = steps.abstract_state(exp.model, exp.optimizer, mesh)
  restored = store.restore(abstract.parts())
  step, path, standing = 0, None, Standing()
  if restored is not None:
    step, parts = restored
    path = str(store.directory / str(step))
    standing = Standing(**store.metadata(step)['standing'])
    state = steps.from_parts(step, parts, mesh)
    log.info('restored %s: going on behind step %d', path, step)
  elif exp.initial_params is not None:
    state = steps.state_from_params(exp.initial_params(), exp.optimizer, mesh, exp.model)
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
  return state, step, standing


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
    table = parameter_overview.get_parameter_overview(
      models.split(models.shapes(model))[0], include_stats=False
    )
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  device = jax.devices()[0].device_kind
  gflop = models.forward_flops(model) / 1e9
  log.info('%s\n%s\n%.3g GFLOP an image forward; %s as %s', table, model, gflop, device, sizes)


def _report(
  exp: Experiment, result: Evaluation, last: int, step: int, progress: Progress, folder: str
) -> None:
  """Pictures, and the sum of what the run has cost, into the workdir.

  Args:
    result: of the state of `step`, on the test split or the evaluation split.
    last: the run's last step.
  """
  rows = read_metrics(folder)
  hours = device_hours([*rows, {'seconds': progress.seconds()}])
  best = {'best_step': step} if exp.keeps_best else {}
  end = {'step': last, **best, 'device_hours': hours, 'core_days': hours / 24}
  progress.event('end', **end)
  if names := undecodable(rows):
    log.warning('training images that did not decode and were replaced: %s', listed(names))
  on = exp.reported
  shown = run_pictures.mistakes_first(result.labels, result.predictions, result.confidences, 40)
  recipe, fraction = on.data.eval_recipe, on.data.eval_crop_fraction
  draw = lambda i: recipes.eval_image(on.source[i]['image'], exp.model.image_size, recipe, fraction)
  drawn = {
    'curves.png': run_pictures.curves([*rows, {'event': 'end', **end}]),
    'predictions.png': run_pictures.predictions(
      [np.rint(draw(i)).astype(np.uint8) for i in shown],
      result.labels[shown],
      result.predictions[shown],
      result.confidences[shown],
      on.source.classes,
    ),
  }
  for name, png in drawn.items():
    (epath.Path(folder) / name).write_bytes(png)
  log.info(
    'done: top-1 %.2f %%%s, %s on %d device(s); curves.png and predictions.png are in %s',
    result.top1,
    f' of step {step}, the best of {last}' if exp.keeps_best else '',
    duration(3600 * hours / jax.device_count()),
    jax.device_count(),
    folder,
  )
