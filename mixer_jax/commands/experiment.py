"""What the commands make of a config: pieces that are checked, ready to be wired."""

import argparse
import dataclasses
import functools
import importlib.util
import logging
from collections.abc import Callable
from typing import Any

import jax
import optax
from jax.sharding import AbstractMesh, Mesh
from ml_collections import ConfigDict

from mixer_jax import checkpoints, models
from mixer_jax.commands import arguments, pod
from mixer_jax.data.pipeline import DataConfig, Process
from mixer_jax.data.records import Source
from mixer_jax.data.source import open_source
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.reporting.terminal import Terminal
from mixer_jax.training.losses import get_loss
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import (
  OptimizerConfig,
  Schedule,
  make_optimizer,
  make_schedule,
)

log = logging.getLogger(__name__)

_LEAST = {
  'total_steps': 1,
  'batch_size': 1,
  'eval_batch_size': 0,
  'accumulate': 1,
  'log_every': 1,
  'eval_every': 0,
  'checkpoint_every': 0,
  'keep_checkpoints': 1,
  'seed': 0,
}
A_DEVICE = 32
"""Images a device in an evaluation batch, where no config tells."""
_MOST = 2**31 - 1  # steps and seeds are int32 on the device
_OTHERS = (
  'loss',
  'mixup',
  'mixup_per',
  'init_from',
  'tensorboard',
  'model',
  'data',
  'optimizer',
  'mesh',
  'processes',
)


@dataclasses.dataclass(frozen=True)
class Evaluated:
  """Where and on what a model is evaluated."""

  data: DataConfig
  mesh: Mesh
  batch_size: int
  """Over all devices of all processes."""
  source: Source


@dataclasses.dataclass(frozen=True)
class Experiment:
  """A training run whose parts fit together."""

  config: ConfigDict
  model: ModelConfig
  initial_params: Callable[[], dict] | None
  """Params on the host to begin with; None: random ones."""
  schedule: Schedule
  optimizer: optax.GradientTransformation
  mixup: MixupConfig
  source: Source
  evaluated: Evaluated

  def metadata(self) -> dict[str, Any]:
    """What a saved state needs to be used without this config."""
    data = self.evaluated.data
    return {
      'model': dataclasses.asdict(self.model),
      'data': data.name,
      'classes': list(self.source.classes),
      'eval_recipe': data.eval_recipe,
      'eval_crop_fraction': data.eval_crop_fraction,
      'config': self.config.to_dict(),
    }


def check(config: ConfigDict, known_model: dict[str, Any] | None) -> Experiment:
  """Everything a training run needs; writes nothing.

  `known_model` is the model of a run that goes on: its `init_from` is then not
  looked at again, unless the run stopped before its first save.

  Raises:
    UserError: something is missing, wrong or does not fit.
  """
  mixup = mixup_of(config)
  evaluated, source, optimizer_config, schedule = processes.together(lambda: _parts(config))
  processes.check_same(
    {'the training data': source.describe(), 'the evaluation data': evaluated.source.describe()}
  )
  if not config.init_from:
    model, initial_params = _fresh_model(config.model), None
  else:
    begin = functools.cache(lambda: _start_from(config.init_from, config.model))
    model = models.config_from(known_model) if known_model else processes.together(begin)[0]
    initial_params = lambda: begin()[1]
  check_classes(model, source)
  evaluated.data.order(model.image_size)  # which the patches of a permutation must divide
  optimizer = make_optimizer(optimizer_config, schedule)
  return Experiment(config, model, initial_params, schedule, optimizer, mixup, source, evaluated)


def _parts(config: ConfigDict) -> tuple[Evaluated, Source, OptimizerConfig, Schedule]:
  """All but the model, which may wait for other processes while it is read."""
  check_fields(config)
  if config.tensorboard:
    for package in ('tensorflow', 'tensorboard'):
      if importlib.util.find_spec(package) is None:
        raise UserError(
          f"config.tensorboard needs {package}: pip install 'mixer_jax[prepare]', or set it false"
        )
  get_loss(config.loss)
  optimizer_config = build(OptimizerConfig, config.optimizer, 'optimizer')
  schedule = make_schedule(optimizer_config, config.total_steps)
  if optimizer_config.warmup_steps >= config.total_steps:
    log.warning(
      'all of total_steps %d is warm-up: config.optimizer.warmup_steps is %d',
      config.total_steps,
      optimizer_config.warmup_steps,
    )
  evaluated = check_evaluation(config)
  meshes.check_batch(evaluated.mesh, config.batch_size, config.accumulate)
  source = open_train(evaluated.data)
  return evaluated, source, optimizer_config, schedule


def check_evaluation(config: ConfigDict, source: Source | None = None) -> Evaluated:
  """The part of a config that evaluation needs, checked; on `source` if it is open already."""
  data = data_of(config)
  mesh = meshes.make_mesh(**mesh_sizes(config))
  batch_size = eval_batch_size(config, mesh)
  source = source or open_source(data.name, data.eval_split, data.data_dir)
  return Evaluated(data, mesh, batch_size, source)


def mixup_of(config: ConfigDict) -> MixupConfig:
  """How examples are mixed, if at all."""
  return build(MixupConfig, {'alpha': config.mixup, 'per': config.mixup_per}, 'mixup')


def data_of(config: ConfigDict) -> DataConfig:
  """The data of a config; raises `UserError` where there is none."""
  check_fields(config)
  data = build(DataConfig, config.data, 'data')
  if not data.name:
    raise UserError('no data set: set --config.data.name, such as digits or imagenet2012')
  return data


def model_of(config: ConfigDict) -> Any:
  """The model that a run of this config would train; reads `init_from` where there is one."""
  if config.init_from:
    return _start_from(config.init_from, config.model)[0]
  return _fresh_model(config.model)


def _fresh_model(fields: ConfigDict) -> ModelConfig:
  return build(models.config_type(fields), fields, 'model')


def open_train(data: DataConfig) -> Source:
  """The training split."""
  return open_source(data.name, data.train_split, data.data_dir)


def mesh_sizes(config: ConfigDict) -> dict[str, int]:
  """The sizes of the mesh's axes, one of which may be -1."""
  sizes = dict(config.mesh) if isinstance(config.mesh, ConfigDict) else {}
  if set(sizes) != set(meshes.AXES) or any(type(size) is not int for size in sizes.values()):
    raise UserError(f'config.mesh has the whole numbers {", ".join(meshes.AXES)}, and no others')
  return sizes


def eval_batch_size(config: ConfigDict, mesh: Mesh | AbstractMesh) -> int:
  """Images an evaluation batch, over all devices of this mesh."""
  size = config.eval_batch_size or A_DEVICE * mesh.size
  meshes.check_batch(mesh, size, name='eval_batch_size')
  return size


def check_classes(model: ModelConfig, source: Source) -> None:
  """Raises `UserError` unless the head has one output for each class of the data."""
  if model.num_classes != len(source.classes):
    raise UserError(
      f'the model has {model.num_classes} classes and {source.name} {len(source.classes)}: '
      f'train with --config.model.num_classes={len(source.classes)}'
    )


def join_processes(
  command: str,
  args: argparse.Namespace,
  config: ConfigDict | None,
  terminal: Terminal,
  *,
  preemptible: bool = False,
) -> None:
  """Joins the other processes of a pod, where there are any, and sees that they do the same.

  Behind it only process 0 tells how things go; faults are told by all. Without a
  config the limits are those of `ProcessesConfig`.
  """
  limits = ProcessesConfig()
  if config is not None:
    check_fields(config)
    limits = build(ProcessesConfig, config.processes, 'processes')
  told = {f'--{name}': repr(value) for name, value in vars(args).items() if name != 'config'}
  if config is not None:
    told |= {f'config.{name}': repr(value) for name, value in arguments.fields(config).items()}
  pod.join(command, told, limits, terminal, preemptible=preemptible)


def tells() -> bool:
  """Whether this is the process that prints results and writes files."""
  return pod.is_first()


def this_process() -> Process:
  """Which part of each batch is ours."""
  return Process(jax.process_index(), jax.process_count())


def _start_from(path: str, chosen: ConfigDict) -> tuple[Any, dict]:
  """A checkpoint made ready to be fine-tuned: grown, its head new and zero (Appendix C).

  `chosen` holds the fields of the model's config that are set anew; the others stay.
  """
  fields = dict(chosen)
  image_size, num_classes = fields.pop('image_size', None), fields.pop('num_classes', None)
  config, params = checkpoints.load(path, image_size=image_size)
  for name, value in models.architecture(config).items():
    if fields.pop(name, value) != value:
      raise UserError(
        f'config.model.{name} cannot differ from the checkpoint {path}, where it is '
        f'{value}: leave it out'
      )
  config = build(type(config), {**dataclasses.asdict(config), **fields}, 'model')
  return models.with_zero_head(config, params, num_classes or config.num_classes)


def build(cls, fields: Any, group: str):
  """`cls(**fields)`, where a superfluous or missing field is the user's to mend."""
  known = dataclasses.fields(cls)
  needed = {field.name for field in known if field.default is dataclasses.MISSING}
  strange = [name for name in fields if name not in {field.name for field in known}]
  missing = sorted(name for name in needed if name not in fields)
  if strange:
    raise UserError(f'config.{group} has fields that nobody reads: {", ".join(strange)}')
  if missing:
    hint = ', or take them from a checkpoint with --config.init_from' if group == 'model' else ''
    raise UserError(f'config.{group} lacks {", ".join(missing)}: set them{hint}')
  try:
    return cls(**fields)
  except TypeError as error:  # a value of a type that cannot be compared
    raise UserError(f'config.{group}: {" ".join(str(error).split())}') from error


def check_fields(config: ConfigDict) -> None:
  """Raises `UserError` unless the config has the fields of configs/common.py, and sane numbers."""
  names = (*_LEAST, *_OTHERS)
  for name in names:
    if name not in config:
      raise UserError(f'the config has no field {name!r}: begin with configs/common.py')
  strange = sorted(set(config) - set(names))
  if strange:
    raise UserError(f'the config has fields that nobody reads: {", ".join(strange)}')
  for name, least in _LEAST.items():
    if type(config[name]) is not int or not least <= config[name] <= _MOST:
      raise UserError(
        f'config.{name} must be a whole number, at least {least} and below 2^31, '
        f'is {config[name]!r}'
      )
