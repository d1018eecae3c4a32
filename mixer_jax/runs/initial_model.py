"""The model that a run begins with: a fresh one, or that of a checkpoint made ready for it."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mixer_jax import checkpoints, models
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.runs import checkpoint_labels, config_file
from mixer_jax.runs.run_config import build


def model_of(config: ConfigDict) -> Any:
  """The model that a run of this config would train; reads `init_from` where there is one."""
  if config.init_from:
    return start_from(config)[0]
  return fresh(config.model)


def fresh(fields: ConfigDict) -> ModelConfig:
  """The model of `config.model` alone."""
  return build(models.config_type(fields), fields, 'model')


def start_from(config: ConfigDict, source: Source | None = None) -> tuple[Any, dict]:
  """The checkpoint of `init_from` made ready to be trained on.

  It has the blocks of `init_blocks`, is grown, and its head is new and zero (Appendix C) or, by
  `init_head`, its own. `config.model` holds the fields of the model's config that are set
  anew; the others stay.

  Args:
    source: the training data, whose classes a head that is kept must have.
  """
  path, fields = config.init_from, dict(config.model)
  image_size, num_classes = fields.pop('image_size', None), fields.pop('num_classes', None)
  checkpoint = checkpoints.read(path)
  model, params = checkpoints.adapted(
    checkpoint, image_size=image_size, num_classes=None, blocks=blocks(config)
  )
  for name, value in models.architecture(model).items():
    if fields.pop(name, value) != value:
      raise UserError(
        f'config.model.{name} cannot differ from the checkpoint {path}, where it is '
        f'{value}: leave it out'
      )
  model = build(type(model), {**dataclasses.asdict(model), **fields}, 'model')
  num_classes = num_classes or model.num_classes
  if config.init_head == 'zero':
    return models.with_zero_head(model, params, num_classes)
  known = checkpoint_labels.classes_of(checkpoint)
  if num_classes != model.num_classes or (source and known and known != source.classes):
    raise UserError(
      f"config.init_head='keep': the head of {path} is of other classes than the data; begin a "
      "new one with 'zero'"
    )
  return model, params


def blocks(config: ConfigDict) -> tuple[int, ...] | None:
  """The blocks of `init_from` that stay; None: all."""
  text = config.init_blocks
  return config_file.numbers('config.init_blocks', text, int) if text else None
