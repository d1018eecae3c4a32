"""A training run, from its config to the trained state in its workdir; resumes where it stopped."""

import contextlib
import logging
import os
import time

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax import models
from mixer_jax.checkpoints.store import Store
from mixer_jax.data import pipeline
from mixer_jax.errors import NotFiniteError, PreemptedError, UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.parallel.memory import remedies_named
from mixer_jax.parallel.preemption import preemptible
from mixer_jax.paths import remove_unfinished, user_path
from mixer_jax.runlog import terminal
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runlog.progress import Progress
from mixer_jax.runlog.startup import Startup
from mixer_jax.runs import run_report
from mixer_jax.runs.config_versions import as_begun
from mixer_jax.runs.evaluation_setup import this_process
from mixer_jax.runs.experiment import Experiment, build_experiment
from mixer_jax.runs.hooks import RunHooks
from mixer_jax.runs.memory_remedies import remedies
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.run_data import check_data
from mixer_jax.runs.train_result import TrainResult, is_evaluation, result_from
from mixer_jax.runs.workdir import check_stored, claimed
from mixer_jax.training import loop
from mixer_jax.training import step as steps
from mixer_jax.training.early_stopping import Standing
from mixer_jax.training.input_wait import InputWait
from mixer_jax.training.sam import make_sam

log = logging.getLogger(__name__)


def train(config: RunConfig, workdir, *, startup: Startup | None = None) -> TrainResult:
  """Trains a run of `config` in `workdir`, or resumes it; all processes call it alike.

  Everything is checked before anything is written. Ctrl-C, SIGTERM, SIGUSR1 and SIGHUP end the run
  after a save, if this is the main thread; a second Ctrl-C ends the process at once.

  Args:
    workdir: local or in a bucket.
    startup: the clock of the command, so that the log says what start-up time was spent on.

  Raises:
    UserError: the config is wrong or does not fit the data, the devices or `workdir`.
    NotFiniteError: the run diverged.
    PreemptedError: one of these signals arrived; the state was saved.
  """
  if not isinstance(config, RunConfig):
    raise UserError(f'train takes a RunConfig, as load_config returns, not {config!r:.80}')
  startup = startup or Startup()
  workdir = processes.together(lambda: user_path(workdir))
  stored = processes.together(lambda: check_stored(workdir, config))
  if stored:
    config = as_begun(config, stored)
  experiment = build_experiment(config, stored and stored['model'])
  startup.mark('data')
  return train_experiment(experiment, workdir, startup=startup)


def train_experiment(
  experiment: Experiment,
  workdir,
  *,
  startup: Startup | None = None,
  show_parameters: bool = True,
) -> TrainResult:
  """As `train`, for an experiment that is built already.

  Args:
    show_parameters: log the table of all parameters when the run begins.
  """
  folder = os.fspath(workdir)
  startup = startup or Startup()
  with contextlib.ExitStack() as claim:
    processes.together(lambda: _claim(claim, folder, experiment))
    return _train(experiment, folder, startup, show_parameters)


def _claim(claim: contextlib.ExitStack, folder: str, experiment: Experiment) -> None:
  """Makes the folder this run's, in process 0, until `claim` is closed; checks the data."""
  if processes.is_main():
    stored = claim.enter_context(claimed(folder, experiment.config, experiment.model))
    if stored and as_begun(experiment.config, stored) != experiment.config:
      raise UserError(f'{folder} holds a run of an earlier version: resume it with `train`')
    remove_unfinished(folder)
    check_data(folder, experiment, stored)


def _train(exp: Experiment, folder: str, startup: Startup, show_parameters: bool) -> TrainResult:
  config, mesh, model = exp.config, exp.evaluated.mesh, exp.model
  train_step = steps.make_train_step(
    model,
    exp.optimizer,
    exp.schedule,
    mesh,
    loss=config.loss,
    seed=config.seed,
    accumulate=config.accumulate,
    mixup=config.mixup,
    sam=make_sam(config.optimizer, exp.schedule),
  )
  input_wait = InputWait()
  progress = Progress(
    MetricsFile(folder) if processes.is_main() else None,
    total_steps=exp.total_steps,
    batch_size=config.batch_size,
    log_every=config.log_every,
    started=startup.began,
    input_wait=input_wait.share,
  )
  store = Store(folder, keep=config.keep_checkpoints)
  state, first_step, standing = _begin(exp, store, progress)
  # What earlier starts of the run have evaluated is in its file alone.
  earlier = [row for row in read_metrics(folder) if is_evaluation(row)] if first_step else []
  jax.block_until_ready(state)
  startup.mark('restore' if first_step else 'init')
  _log_model(model, mesh, table=first_step == 0 and show_parameters)
  skipped: set[str] = set()
  batches = pipeline.train_batches(
    exp.source,
    exp.evaluated.data,
    image_size=model.image_size,
    batch_size=config.batch_size,
    seed=config.seed,
    first_step=first_step,
    process=this_process(mesh),
    skipped=skipped,
  )
  with preemptible() as preemption:
    hooks = RunHooks(
      exp, store, progress, preemption, folder, startup, standing, first_step, skipped
    )
    try:
      if not standing.is_over(config.early_stopping):
        # Workers end before what follows, which may need their memory.
        with remedies_named('training', lambda: remedies(exp)), contextlib.closing(batches):
          state = loop.train(
            state,
            _first_marked(train_step, startup),
            meshes.put_all(mesh, batches),
            hooks,
            first_step=first_step,
            evaluated_step=standing.step,
            total_steps=exp.total_steps,
            eval_every=config.eval_every,
            save_every=config.checkpoint_every,
            input_wait=input_wait,
          )
      store.wait()
      last = step = int(jax.device_get(state.step))
      params = state.weights
      if config.keeps_best and hooks.standing.best_step not in (0, last):
        del state, params  # there may be no room for both
        step = hooks.standing.best_step
        params = _saved_params(exp, store, step)
      evaluation = hooks.report(step, params)
    except BaseException as error:
      terminal.finish()
      # A save in progress is completed, also when the run stops here; but a fault of this process
      # alone must not make it wait for others, which wait for it.
      if processes.is_alone() or isinstance(error, PreemptedError | NotFiniteError):
        store.wait()
      raise
    finally:
      terminal.finish()
      hooks.close()
    end = run_report.finish(exp, evaluation, last, step, progress, folder)
  result = result_from([*earlier, *hooks.rows], end)
  if processes.is_main():
    run_report.log_result(evaluation, result, folder)
  return result


def _saved_params(exp: Experiment, store: Store, step: int) -> dict:
  parts = steps.abstract_state(exp.model, exp.optimizer, exp.evaluated.mesh).parts()
  del parts['optimizer']
  saved = store.read(step, parts)
  return models.join(saved['params'], saved.get('model_state', {}))


def _begin(
  exp: Experiment, store: Store, progress: Progress
) -> tuple[steps.TrainState, int, Standing]:
  """Return the newest intact state of the run or the initial one, its step and its standing.

  Logs the start.
  """
  mesh = exp.evaluated.mesh
  abstract = steps.abstract_state(exp.model, exp.optimizer, mesh)
  restored = store.restore(abstract.parts(), with_best=exp.config.keeps_best)
  step, path, standing = 0, None, Standing()
  if restored is not None:
    step, parts = restored
    path = str(store.directory / str(step))
    standing = Standing(**store.metadata(step).get('standing', {}))  # the first runs had none
    state = steps.from_parts(step, parts, mesh)
    is_finished = step >= exp.total_steps or standing.is_over(exp.config.early_stopping)
    text = 'the run is finished after step %d' if is_finished else 'resuming after step %d'
    log.info(f'restored %s: {text}', path, step)
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
  """Return the step with marks around its first call, which compiles it."""
  is_compiled = False

  def step(state: steps.TrainState, batch: steps.Batch) -> tuple[steps.TrainState, steps.Metrics]:
    nonlocal is_compiled
    if is_compiled:
      return train_step(state, batch)
    is_compiled = True
    startup.mark('input')
    result = train_step(state, batch)
    startup.mark('compile')
    return result

  return step


def _log_model(model: models.ModelConfig, mesh: Mesh, *, table: bool) -> None:
  """Logs the parameters (a table of all, or their number), the FLOPs and the devices."""
  from clu import parameter_overview

  parameters = f'{models.num_params(model):,} parameters'
  if table:
    parameters = parameter_overview.get_parameter_overview(
      models.split(models.shapes(model))[0], include_stats=False
    )
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  device = jax.devices()[0].device_kind
  gflop = models.forward_flops(model) / 1e9
  log.info(
    '%s\n%s\n%.3g GFLOP per image, forward; %s as %s', parameters, model, gflop, device, sizes
  )
