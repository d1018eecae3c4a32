"""`mixer-jax train`: pre-train or fine-tune; the same command again goes on."""

import dataclasses
import functools
import logging
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mixer_jax.checkpoints.store import Store
from mixer_jax.commands import arguments, screen, setup, workdir
from mixer_jax.data import pipeline, preprocess
from mixer_jax.data.source import Source, open_source
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import MixerConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.reporting import pictures
from mixer_jax.reporting.metrics import MetricsFile, device_hours, read_metrics
from mixer_jax.reporting.progress import Progress
from mixer_jax.reporting.terminal import Terminal, duration
from mixer_jax.training import step as steps
from mixer_jax.training.loop import train
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
  """Flags and config in, a trained state in the workdir out."""
  started = time.monotonic()
  parser = arguments.Parser('train', __doc__ or '')
  parser.add_config(required=True)
  parser.add_argument('--workdir', required=True, help='folder of the run, local or gs://…')
  args, overrides = parser.parse(argv)
  terminal = screen.open_screen()
  config = arguments.load_config(args.config, overrides)
  run(config, args.workdir, terminal, started)


def run(config: ConfigDict, folder: str, terminal: Terminal, started: float) -> None:
  """One start of a run: everything is checked before anything is written."""
  _check_counts(config)
  data = setup.data_config(config)
  optimizer_config = setup.build(OptimizerConfig, config.optimizer, 'optimizer')
  schedule = make_schedule(optimizer_config, config.total_steps)
  optimizer = make_optimizer(optimizer_config, schedule)
  mesh = meshes.make_mesh(**config.mesh)
  meshes.check_batch(mesh, config.batch_size, config.accumulate)
  meshes.check_batch(mesh, config.eval_batch_size)
  known = workdir.stored_run(folder)
  if known:
    workdir.check_same_run(folder, config, known)
  model, make_state = _beginning(config, known, optimizer, mesh)
  train_source = open_source(data.name, data.train_split, data.data_dir)
  eval_source = open_source(data.name, data.eval_split, data.data_dir)
  setup.check_classes(model, train_source)
  train_step = steps.make_train_step(
    model,
    optimizer,
    schedule,
    mesh,
    loss=config.loss,
    seed=config.seed,
    accumulate=config.accumulate,
  )

  writes = jax.process_index() == 0
  if writes and not known:
    workdir.write_run(folder, config, dataclasses.asdict(model))
  store = Store(folder, keep=config.keep_checkpoints)
  progress = Progress(
    terminal,
    MetricsFile(folder) if writes else None,
    total_steps=config.total_steps,
    batch_size=config.batch_size,
    log_every=config.log_every,
    started=started,
  )
  state, first_step = _restore(store, model, optimizer, mesh, make_state, progress)
  _overview(model, mesh)
  batches = pipeline.train_batches(
    train_source,
    data,
    image_size=model.image_size,
    batch_size=config.batch_size,
    seed=config.seed,
    first_step=first_step,
    process=_process(),
  )
  metadata = {
    'model': dataclasses.asdict(model),
    'data': data.name,
    'classes': list(train_source.classes),
    'eval_resize': data.eval_resize,
    'eval_crop_fraction': data.eval_crop_fraction,
  }
  hooks = _Hooks(config, model, mesh, eval_source, data, store, progress, metadata, folder)
  try:
    state = train(
      state,
      train_step,
      _on_mesh(batches, mesh),
      hooks,
      first_step=first_step,
      total_steps=config.total_steps,
      eval_every=config.eval_every,
      save_every=config.checkpoint_every,
    )
  finally:
    terminal.finish()
    store.wait()  # a save that is under way becomes whole, also when the run stops here
  evaluation = hooks.evaluation
  if evaluation is None:  # the run was complete already
    hooks.evaluate(config.total_steps, state)
    evaluation = hooks.evaluation
  progress.event('end', step=config.total_steps)
  if writes and evaluation is not None:
    _report(folder, evaluation, eval_source, data, model, progress)


class _Hooks:
  """What the loop calls: progress, evaluation, saving."""

  def __init__(self, config, model, mesh, source, data, store, progress, metadata, folder):
    self._config, self._model, self._mesh = config, model, mesh
    self._source, self._data = source, data
    self._store, self._progress, self._metadata = store, progress, metadata
    self._eval_step = classify.make_eval_step(model, mesh)
    self._tensorboard = _tensorboard(folder) if config.tensorboard else None
    self.evaluation: classify.Evaluation | None = None

  def step(self, step: int, metrics: dict[str, float]) -> None:
    self._progress.step(step, metrics)
    if self._tensorboard and step % self._config.log_every == 0:
      self._tensorboard.write_scalars(step, metrics)

  def evaluate(self, step: int, state: steps.TrainState) -> None:
    batches = pipeline.eval_batches(
      self._source,
      self._data,
      image_size=self._model.image_size,
      batch_size=self._config.eval_batch_size,
      process=_process(),
    )
    self.evaluation = classify.evaluate(
      self._eval_step, state.params, batches, self._mesh, size=len(self._source)
    )
    numbers = self.evaluation.numbers()
    log.info(
      'step %d: top-1 %.2f %% of %d images of %s, loss %.4f',
      step,
      self.evaluation.top1,
      self.evaluation.examples,
      self._source.name,
      self.evaluation.loss,
    )
    self._progress.event('eval', step=step, **numbers)
    if self._tensorboard:
      self._tensorboard.write_scalars(step, {f'eval/{k}': v for k, v in numbers.items()})
    self._progress.pause()

  def save(self, step: int, state: steps.TrainState) -> None:
    begun = time.monotonic()
    parts = {'params': state.params, 'optimizer': state.opt_state}
    self._store.save(step, parts, self._metadata)
    self._progress.event('save', step=step, blocked=round(time.monotonic() - begun, 4))
    self._progress.pause()


def _check_counts(config: ConfigDict) -> None:
  least = {
    'total_steps': 1,
    'batch_size': 1,
    'eval_batch_size': 1,
    'accumulate': 1,
    'log_every': 1,
    'eval_every': 0,
    'checkpoint_every': 0,
    'keep_checkpoints': 1,
    'seed': 0,
  }
  for name, low in least.items():
    if name not in config:
      raise UserError(f'the config has no field {name!r}: begin with configs/common.py')
    if config[name] < low:
      raise UserError(f'config.{name} must be at least {low}, is {config[name]}')


def _beginning(
  config: ConfigDict, known: dict[str, Any] | None, optimizer, mesh
) -> tuple[MixerConfig, Callable[[], steps.TrainState]]:
  """The model, and how to make the state of step 0.

  A run that is known does not need `init_from` again, unless it stopped before its
  first save.
  """
  if not config.init_from:
    model = setup.build(MixerConfig, config.model, 'model')
    return model, lambda: steps.init_state(model, optimizer, mesh, config.seed)
  load = functools.cache(lambda: setup.start_from(config.init_from, config.model))
  model = MixerConfig(**known['model']) if known else load()[0]
  return model, lambda: steps.state_from_params(load()[1], optimizer, mesh)


def _restore(store, model, optimizer, mesh, make_state, progress) -> tuple[steps.TrainState, int]:
  """The newest whole state of the run, or that of step 0; and its step. Tells of the start."""
  abstract = steps.abstract_state(model, optimizer, mesh)
  restored = store.restore({'params': abstract.params, 'optimizer': abstract.opt_state})
  step, path = 0, None
  if restored is None:
    state = make_state()
  else:
    step, parts = restored
    path = str(store.directory / str(step))
    count = meshes.put_replicated(mesh, {'step': np.int32(step)})['step']
    state = steps.TrainState(count, parts['params'], parts['optimizer'])
    log.info('restored %s: going on behind step %d', path, step)
  for process, pid in enumerate(_pids()):
    progress.event(
      'start',
      step=step,
      restored=path,
      process=process,
      pid=pid,
      devices=jax.device_count(),
      platform=jax.devices()[0].device_kind,
      time=time.time(),
    )
  return state, step


def _pids() -> list[int]:
  if jax.process_count() == 1:
    return [os.getpid()]
  from jax.experimental import multihost_utils

  return multihost_utils.process_allgather(np.array(os.getpid())).tolist()


def _process() -> pipeline.Process:
  return pipeline.Process(jax.process_index(), jax.process_count())


def _on_mesh(batches: Iterator[pipeline.Batch], mesh) -> Iterator[steps.Batch]:
  for batch in batches:
    yield meshes.put(mesh, batch)


def _overview(model: MixerConfig, mesh) -> None:
  from clu import parameter_overview

  from mixer_jax.models import forward_flops, shapes

  table = parameter_overview.get_parameter_overview(shapes(model), include_stats=False)
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  log.info(
    '%s\n%s %.3g GFLOP an image forward; %d %s as %s',
    table,
    model,
    forward_flops(model) / 1e9,
    jax.device_count(),
    jax.devices()[0].device_kind,
    sizes,
  )


def _tensorboard(folder: str):
  if jax.process_index():
    return None
  try:
    from clu.metric_writers import SummaryWriter  # imports TensorFlow
  except ImportError as error:
    raise UserError(f'config.tensorboard needs TensorFlow: {error}') from error
  return SummaryWriter(os.path.join(folder, 'tensorboard'))


def _report(folder, evaluation, source: Source, data, model: MixerConfig, progress) -> None:
  """Pictures and the sum of what the run has cost, into the workdir."""
  rows = read_metrics(folder)
  hours = device_hours(rows)
  progress.event('total', device_hours=hours, core_days=hours / 24)
  labels = np.array([source.records[i]['label'] for i in range(len(source))])
  shown = pictures.mistakes_first(labels, evaluation.predictions, evaluation.confidences, 40)
  images = [
    preprocess.eval_image(
      preprocess.decode(source[i]['image']),
      model.image_size,
      data.eval_resize,
      data.eval_crop_fraction,
    )
    for i in shown
  ]
  drawn = {
    'curves.png': pictures.curves(rows),
    'predictions.png': pictures.predictions(
      np.stack(images),
      labels[shown],
      evaluation.predictions[shown],
      evaluation.confidences[shown],
      source.classes,
    ),
  }
  for name, png in drawn.items():
    (epath.Path(folder) / name).write_bytes(png)
  log.info(
    'done: top-1 %.2f %%, %s × %d device(s); curves.png and predictions.png are in %s',
    evaluation.top1,
    duration(3600 * hours / jax.device_count()),
    jax.device_count(),
    folder,
  )
