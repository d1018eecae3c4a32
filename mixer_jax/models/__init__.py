"""Images, params -> logits: pure functions over a dict of arrays, chosen by the config's type.

A model family is a frozen config class and a module with `init`, `run`, `shapes`,
`forward_flops`, `is_stochastic`, `activation`, `variant_of` and `ARCHITECTURE` for it;
`_FAMILIES` is what the functions here choose from. Written down, a config is its fields,
of which one is `family`.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import jax
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.models import mixer, resnet
from mixer_jax.models.images import as_input, from_levels
from mixer_jax.models.mixer import VARIANTS, MixerConfig
from mixer_jax.models.resnet import ResNetConfig

__all__ = [
  'VARIANTS',
  'MixerConfig',
  'ModelConfig',
  'ResNetConfig',
  'activation',
  'apply',
  'architecture',
  'as_input',
  'config_from',
  'config_type',
  'features',
  'forward_flops',
  'from_levels',
  'init',
  'num_params',
  'shapes',
  'variant_of',
  'with_zero_head',
]

ModelConfig = MixerConfig | ResNetConfig

_FAMILIES: dict[type, ModuleType] = {MixerConfig: mixer, ResNetConfig: resnet}
_TYPES = {'mixer': MixerConfig, 'resnet': ResNetConfig}


def config_type(fields: Mapping[str, Any]) -> type[MixerConfig] | type[ResNetConfig]:
  """The class of the config that has these fields; a Mixer's need not tell the family.

  Raises:
    UserError: there is no such family.
  """
  family = fields.get('family', 'mixer')
  if family not in _TYPES:
    raise UserError(f'model.family must be {" or ".join(map(repr, _TYPES))}, not {family!r}')
  return _TYPES[family]


def config_from(fields: Mapping[str, Any]) -> ModelConfig:
  """The config that `dataclasses.asdict` made these fields of."""
  return config_type(fields)(**fields)


def _family(config) -> ModuleType:
  try:
    return _FAMILIES[type(config)]
  except KeyError:
    known = ', '.join(sorted(cls.__name__ for cls in _FAMILIES))
    raise UserError(f'no model for a config of type {type(config).__name__}: use {known}') from None


def init(config: ModelConfig, key: jax.Array) -> dict:
  """Fresh parameters: a nested dict of float32 arrays; a Mixer's under the published names."""
  return _family(config).init(config, key)


def shapes(config: ModelConfig) -> dict:
  """The tree that `init` returns, with `jax.ShapeDtypeStruct` leaves; computes nothing."""
  return _family(config).shapes(config)


@functools.partial(jax.jit, static_argnums=0, static_argnames='train', inline=True)
def apply(
  config: ModelConfig, params: dict, images, *, train: bool = False, key: jax.Array | None = None
) -> jax.Array:
  """Logits, (B, num_classes) float32.

  Args:
    config: the model; its type chooses the family.
    params: what `init` or `load` returned.
    images: (B, image_size, image_size, 3), RGB: floats in the config's
      `input_range`, or uint8 in 0..255, which is mapped to it.
    train: draw stochastic depth and dropout.
    key: a `jax.random.key`, needed if `train` and the config has either.

  Raises:
    UserError: images of another shape or dtype, params of another model, or no key
      where one is needed.
  """
  if train and key is None and _family(config).is_stochastic(config):
    raise UserError('apply(train=True) with stochastic depth or dropout needs key=')
  return _family(config).run(config, params, images, key if train else None)[0]


@functools.partial(jax.jit, static_argnums=0, inline=True)
def features(config: ModelConfig, params: dict, images) -> dict[str, jax.Array]:
  """Every intermediate of a forward pass by name, in order of depth; images as for `apply`.

  For a Mixer: `stem`, `block_i/token_mixing/{norm,residual}`, `block_i/channel_mixing/norm`
  and `block_i` are (B, S, C); `block_i/token_mixing/hidden` is (B, C, tokens_mlp_dim),
  `block_i/channel_mixing/hidden` (B, S, channels_mlp_dim), both behind the GELU;
  `pre_logits` is (B, C) float32 and `logits` (B, num_classes) float32. S = tokens.

  For a ResNet: `stem` and `block_i`, the output of each bottleneck unit, (B, H, W, C);
  `pre_logits` and `logits` as a Mixer's.
  """
  return _family(config).run(config, params, images)[1]


def architecture(config: ModelConfig) -> dict[str, Any]:
  """The fields that are settled by the weights, but for the image size and the classes."""
  return {name: getattr(config, name) for name in ('family', *_family(config).ARCHITECTURE)}


def activation(config: ModelConfig) -> str:
  """The nonlinearity in words: 'gelu tanh', 'relu'."""
  return _family(config).activation(config)


def variant_of(config: ModelConfig) -> str:
  """What people call it: 'B/16', 'B/16 grown to 448 px', 'ResNet-50x1'."""
  return _family(config).variant_of(config)


def with_zero_head(config: ModelConfig, params: dict, num_classes: int) -> tuple[Any, dict]:
  """The same body under a new head for `num_classes`: zeros, its bias at `head_bias`."""
  config = dataclasses.replace(config, num_classes=num_classes)
  kernel = np.zeros((params['head']['kernel'].shape[0], num_classes), np.float32)
  bias = np.full(num_classes, config.head_bias, np.float32)
  return config, {**params, 'head': {'kernel': kernel, 'bias': bias}}


def num_params(config: ModelConfig) -> int:
  """Number of parameters, head included."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes(config)))


def forward_flops(config: ModelConfig) -> int:
  """Matrix-multiply FLOPs of one image's forward pass, 2 per multiply-add."""
  return _family(config).forward_flops(config)
