"""The model that a run starts with: a new one, or that of a checkpoint adapted to the run."""

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from mixer_jax import checkpoints, models
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.models.parameters import flatten
from mixer_jax.runs import checkpoint_labels
from mixer_jax.runs.fields import build
from mixer_jax.runs.run_config import RunConfig


def model_of(config: RunConfig) -> ModelConfig:
  """Return the model that a run of this config would train; reads `init_from` if it is set."""
  if config.init_from:
    return start_from(config)[0]
  return new_model(config.model)


def new_model(fields: Mapping[str, Any]) -> ModelConfig:
  """Return the model that has these fields of `config.model` and no others."""
  return build(models.config_type(fields), fields, 'model')


def start_from(config: RunConfig, source: Source | None = None) -> tuple[ModelConfig, dict]:
  """Return model and params (on the host) of the checkpoint `init_from`, ready to be trained.

  It has the blocks of `init_blocks`, is grown, and its head is new and zero (Appendix C) or, with
  `init_head='keep'`, its own. The fields of `config.model` replace those of the checkpoint; a field
  that its family does not have may be there if it is off, such as a dropout of 0.

  Args:
    source: the training data, whose classes a head that is kept must have.

  Raises:
    UserError: there is no such checkpoint, or it does not fit the config.
  """
  path, fields = config.init_from, dict(config.model)
  image_size, num_classes = fields.pop('image_size', None), fields.pop('num_classes', None)
  checkpoint = checkpoints.read(path, num_heads=fields.get('num_heads'), image_size=image_size)
  _check_same(path, fields, {'family': models.architecture(checkpoint.config)['family']})
  model, params = checkpoints.adapted(
    checkpoint, image_size=image_size, num_classes=None, blocks=config.init_blocks or None
  )
  _check_same(path, fields, models.architecture(model))
  fields = {k: v for k, v in fields.items() if k not in models.architecture(model)}
  own = {field.name for field in dataclasses.fields(model)}
  for name in [name for name in fields if name not in own and models.is_field(name)]:
    if value := fields.pop(name):
      raise UserError(
        f'config.model.{name}={value}: the checkpoint {path} is {models.variant_of(model)}, which '
        'has no such field: leave it out'
      )
  model = build(type(model), {**dataclasses.asdict(model), **fields}, 'model')
  num_classes = num_classes or model.num_classes
  if config.init_head == 'zero':
    return models.with_zero_head(model, params, num_classes)
  known = checkpoint_labels.class_names(checkpoint)
  if num_classes != model.num_classes or (source and known and known != source.classes):
    raise UserError(
      f"config.init_head='keep': the head of {path} has other classes than the data; start with "
      "a new one, 'zero'"
    )
  return model, params


def _check_same(path: str, fields: Mapping[str, Any], own: Mapping[str, Any]) -> None:
  """Check fields of `config.model` that the checkpoint decides.

  Args:
    own: their values in the checkpoint.

  Raises:
    UserError: one differs.
  """
  for name, value in own.items():
    if fields.get(name, value) != value:
      raise UserError(
        f'config.model.{name} cannot differ from the checkpoint {path}, where it is '
        f'{value}: leave it out'
      )


class InitialWeights:
  """The weights of `init_from`, read on demand.

  What was read to learn the model is used for the params, once. Only the last instance that was
  read holds them: so the experiments of a study take the memory of one.
  """

  _holder: ClassVar['InitialWeights | None'] = None

  def __init__(self, config: RunConfig, source: Source):
    self._config, self._source = config, source
    self._read: tuple[ModelConfig, dict] | None = None

  def model(self) -> ModelConfig:
    """Return the model; reads the checkpoint."""
    return self._loaded()[0]

  def digest(self) -> str:
    """Return a digest of the model and its params, the same wherever the checkpoint is."""
    model, params = self._loaded()
    digest = hashlib.sha256(repr(model).encode())
    for name, array in sorted(flatten(models.split(params)).items()):
      digest.update(f'{name} {array.dtype} {array.shape}'.encode())
      digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()

  def __call__(self) -> dict:
    """Return the params, on the host."""
    params = self._loaded()[1]
    self._read = None
    return params

  def _loaded(self) -> tuple[ModelConfig, dict]:
    if self._read is None:
      if InitialWeights._holder is not None:
        InitialWeights._holder._read = None
      InitialWeights._holder = self
      self._read = start_from(self._config, self._source)
    return self._read
