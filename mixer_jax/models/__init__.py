"""Images, params -> logits: pure functions of a config and a dict of arrays, for several families.

A model family is one module and one row of a table (`models.family` says what a module defines).
Its heart is a table of parameters (`models.parameters`), from which shapes, initialisation, counts,
checks, shardings, weight decay and the reading of weights files follow for every family. A stored
config is the fields of its dataclass, one of which is `family`.

Of Flax the models use Linen's layers (`Dense`, `Conv`, `LayerNorm`, `GroupNorm`, `max_pool`, in
`models.layers`) and initialisers, and `traverse_util`. A Linen module is applied to the part of the
dict that holds its parameters, so a forward pass is a function of the published names, and nothing
else keeps a copy of them. NNX modules own their arrays: they would have to be split and merged in
each trace, and to state every shape a second time. Training is `jax.jit`, Optax and a dict.
"""

from mixer_jax.models.dispatch import (
  Variables,
  Weights,
  activation,
  apply,
  apply_in_training,
  architecture,
  arithmetic,
  base_variant,
  config_from,
  config_type,
  decayed,
  features,
  fields_of_weights,
  init,
  is_field,
  join,
  kinds,
  mesh_axes,
  num_head_params,
  num_params,
  param_shapes,
  shapes,
  split,
  summary,
  variant_of,
  with_arithmetic,
  with_zero_head,
)
from mixer_jax.models.family import (
  BlockModelConfig,
  ModelConfig,
  capability,
  families_with,
  has_capability,
  register,
  source_file,
)
from mixer_jax.models.flops import forward_flops
from mixer_jax.models.inputs import as_input, from_levels
from mixer_jax.models.mixer import MixerConfig
from mixer_jax.models.resnet import ResNetConfig
from mixer_jax.models.variants import VARIANTS, find_variant, variants
from mixer_jax.models.vit import ViTConfig

__all__ = [
  'VARIANTS',
  'BlockModelConfig',
  'MixerConfig',
  'ModelConfig',
  'ResNetConfig',
  'Variables',
  'ViTConfig',
  'Weights',
  'activation',
  'apply',
  'apply_in_training',
  'architecture',
  'arithmetic',
  'as_input',
  'base_variant',
  'capability',
  'config_from',
  'config_type',
  'decayed',
  'families_with',
  'features',
  'fields_of_weights',
  'find_variant',
  'forward_flops',
  'from_levels',
  'has_capability',
  'init',
  'is_field',
  'join',
  'kinds',
  'mesh_axes',
  'num_head_params',
  'num_params',
  'param_shapes',
  'register',
  'shapes',
  'source_file',
  'split',
  'summary',
  'variant_of',
  'variants',
  'with_arithmetic',
  'with_zero_head',
]
