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

from mixer_jax import models
from mixer_jax.data.catalog import open_source
from mixer_jax.data.pipeline import DataConfig, Process
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.parallel.processes import ProcessesConfig
from mixer_jax.runs import config_file, initial_model, pod, run_config
from mixer_jax.runs.monitoring import FewShotWatch, early_stopping_of, few_shot_of, metrics_of
from mixer_jax.runs.run_config import build, check_fields
from mixer_jax.training.early_stopping import EarlyStoppingConfig
from mixer_jax.training.losses import get_loss
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import (
  OptimizerConfig,
  Schedule,
  make_optimizer,
  make_schedule,
)

log = logging.getLogger(__name__)

A_DEVICE = 32
"""Images a device in an evaluation batch, where no config tells."""


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
  total_steps: int
  evaluated: Evaluated
  tested: Evaluated | None
  """What the run is reported on at its end, where it is not what it was evaluated on."""
  few_shot: FewShotWatch | None
  early_stopping: EarlyStoppingConfig

  @property
  def keeps_best(self) -> bool:
    """Whether the state of the best evaluation is kept, and the run reported by it."""
    return self.config.keep_best or self.early_stopping.patience > 0

  @property
  def reported(self) -> Evaluated:
    """What the run is reported on at its end."""
    return self.tested or self.evaluated

  def metrics(self) -> list[str]:
    """Names of the figures that the run is reported by."""
    return metrics_of(self.reported.source, self.few_shot)

  def metadata(self) -> dict[str, Any]:
    """What a saved state needs to be used without this config."""
    data = self.evaluated.data
    told = {
      'model': dataclasses.asdict(self.model),
      'data': data.name,
      'classes': list(self.source.classes),
      'eval_recipe': data.eval_recipe,
      'eval_crop_fraction': data.eval_crop_fraction,
      'config': self.config.to_dict(),
    }
    if self.config.init_blocks:
      told['origin'] = {
        'checkpoint': self.config.init_from,
        'blocks': [*(initial_model.blocks(self.config) or ())],
      }
    return told


def check(config: ConfigDict, known_model: dict[str, Any] | None) -> Experiment:
  """Everything a training run needs; writes nothing.

  `known_model` is the model of a run that goes on: its `init_from` is then not
  looked at again, unless the run stopped before its first save.

  Raises:
    UserError: something is missing, wrong or does not fit.
  """
  mixup = mixup_of(config)
  evaluated, tested, source, optimizer_config = processes.together(lambda: _parts(config))
  told = {'the training data': source, 'the evaluation data': evaluated.source}
  told |= {'the test data': tested.source} if tested else {}
  processes.check_same({name: data.describe() for name, data in told.items()})
  if not config.init_from:
    model, initial_params = initial_model.fresh(config.model), None
  else:
    begin = functools.cache(lambda: initial_model.start_from(config, source))
    model = models.config_from(known_model) if known_model else processes.together(begin)[0]
    initial_params = lambda: begin()[1]
  check_classes(model, source)
  data, mesh = evaluated.data, evaluated.mesh
  data.order(model.image_size)  # which the patches of a permutation must divide
  few_shot = processes.together(
    lambda: few_shot_of(config, model, data, mesh, evaluated.batch_size, this_process())
  )
  early_stopping = early_stopping_of(config, evaluated.source, few_shot)
  total_steps = run_config.total_steps(config, len(source))
  if optimizer_config.warmup_steps >= total_steps:
    log.warning(
      'all of total_steps %d is warm-up: config.optimizer.warmup_steps is %d',
      total_steps,
      optimizer_config.warmup_steps,
    )
  schedule = make_schedule(optimizer_config, total_steps)
  return Experiment(
    config=config,
    model=model,
    initial_params=initial_params,
    schedule=schedule,
    optimizer=make_optimizer(optimizer_config, schedule),
    mixup=mixup,
    source=source,
    total_steps=total_steps,
    evaluated=evaluated,
    tested=tested,
    few_shot=few_shot,
    early_stopping=early_stopping,
  )


def _parts(config: ConfigDict) -> tuple[Evaluated, Evaluated | None, Source, OptimizerConfig]:
  """What does not wait for other processes while it is read."""
  check_fields(config)
  if config.tensorboard:
    for package in ('tensorflow', 'tensorboard'):
      if importlib.util.find_spec(package) is None:
        raise UserError(
          f"config.tensorboard needs {package}: pip install 'mixer_jax[prepare]', or set it false"
        )
  get_loss(config.loss)
  optimizer_config = build(OptimizerConfig, config.optimizer, 'optimizer')
  evaluated, tested = check_evaluation(config), None
  meshes.check_batch(evaluated.mesh, config.batch_size, config.accumulate)
  data = evaluated.data
  if data.test_split:
    if data.name.startswith('folder:') and '[' not in data.test_split:
      raise UserError(
        f'config.data.test_split {data.test_split!r} of a folder is all of it: slice it, as in '
        "'train[99%:]', or set it to ''"
      )
    test = open_source(data.name, data.test_split, data.data_dir)
    tested = dataclasses.replace(evaluated, source=test)
  return evaluated, tested, open_train(data), optimizer_config


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
    told |= {f'config.{name}': repr(value) for name, value in config_file.fields(config).items()}
  pod.join(command, told, limits, preemptible=preemptible)


def tells() -> bool:
  """Whether this is the process that prints results and writes files."""
  return pod.is_first()


def this_process() -> Process:
  """Which part of each batch is ours."""
  return Process(jax.process_index(), jax.process_count())
