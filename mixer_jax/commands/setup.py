"""What several commands make of a config: checked pieces, ready to be wired."""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from mixer_jax import checkpoints
from mixer_jax.data.pipeline import DataConfig
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig
from mixer_jax.models.resolution import grow


def build(cls, fields: Any, group: str):
  """`cls(**fields)`, where a superfluous or missing field is the user's to mend."""
  known = {field.name for field in dataclasses.fields(cls)}
  for name in fields:
    if name not in known:
      raise UserError(f'config.{group} has no field {name!r}: it has {", ".join(sorted(known))}')
  try:
    return cls(**fields)
  except TypeError as error:
    raise UserError(f'config.{group}: {" ".join(str(error).split())}') from error


def data_config(config: ConfigDict) -> DataConfig:
  """The data section, checked."""
  if not config.data.name:
    raise UserError('no data set: set --config.data.name, such as digits or imagenet2012')
  return build(DataConfig, config.data, 'data')


def check_classes(model: MixerConfig, source: Source) -> None:
  """Raises `UserError` unless the head has one output for each class of the data."""
  if model.num_classes != len(source.classes):
    raise UserError(
      f'the model has {model.num_classes} classes and {source.name} {len(source.classes)}: '
      f'train with --config.model.num_classes={len(source.classes)}'
    )


def start_from(path: str, chosen: ConfigDict) -> tuple[MixerConfig, dict]:
  """A checkpoint made ready to be fine-tuned: grown, its head new and zero (Appendix C).

  `chosen` holds fields of `MixerConfig` that are set anew; the others stay.
  """
  config, params = checkpoints.load(path)
  fields = dict(chosen)
  config, params = grow(config, params, fields.pop('image_size', config.image_size))
  for name in ('patch_size', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim'):
    if fields.pop(name, getattr(config, name)) != getattr(config, name):
      raise UserError(
        f'config.model.{name} cannot differ from the checkpoint {path}, where it is '
        f'{getattr(config, name)}: leave it out'
      )
  config = build(MixerConfig, {**dataclasses.asdict(config), **fields}, 'model')
  return config, {**params, 'head': zero_head(config)}


def zero_head(config: MixerConfig) -> dict:
  """A head of zeros, its bias at `head_bias`."""
  import numpy as np

  kernel = np.zeros((config.hidden_dim, config.num_classes), np.float32)
  return {'kernel': kernel, 'bias': np.full(config.num_classes, config.head_bias, np.float32)}
