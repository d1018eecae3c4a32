"""Functions of a config, its weights and images, for every family.

`weights` below are what `init` and `checkpoints.load` return: the dict of params, or for a family
with model state `Variables(params, state)`. `apply` and all that is built on it take either.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.models import family, inputs, parameters


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Variables:
  """Params with the model state that belongs to them, as one tree."""

  params: dict
  state: dict


Weights = Any
"""dict | Variables."""


def join(params: dict, state: dict) -> Weights:
  """Return params and model state as one; the params themselves where there is no state."""
  return Variables(params, state) if state else params


def split(weights: Weights) -> tuple[dict, dict]:
  """Return (params, model state)."""
  return (weights.params, weights.state) if isinstance(weights, Variables) else (weights, {})


def config_type(fields: Mapping[str, Any]) -> type:
  """Class of the config that has these fields; without a `family` it is a Mixer's.

  Raises:
    UserError: there is no such family.
  """
  return family.load(fields.get('family', family.DEFAULT)).Config


def config_from(fields: Mapping[str, Any]):
  """Return the config of which `dataclasses.asdict` made these fields."""
  return config_type(fields)(**fields)


class _Described(NamedTuple):
  params: dict[str, parameters.Leaf]
  state: dict[str, parameters.Leaf]


@functools.lru_cache(maxsize=256)
def _described(config) -> _Described:
  module = family.of(config)
  fields = {letter: getattr(config, field) for letter, field in module.SIZES.items()}
  sizes = {letter: size for letter, size in fields.items() if size}  # of what the model has
  own = getattr(module, 'block_sizes', lambda config, block: {})
  blocks = [own(config, i) for i in range(getattr(config, 'num_blocks', 0))]
  leaves = lambda table: parameters.leaves(table, sizes, blocks)
  return _Described(leaves(module.PARAMETERS), leaves(getattr(module, 'STATE', {})))


def param_shapes(config) -> dict[str, parameters.Shape]:
  """Name -> shape of every parameter, in order of depth."""
  return {name: leaf.shape for name, leaf in _described(config).params.items()}


def shapes(config) -> Weights:
  """The tree that `init` returns, with `jax.ShapeDtypeStruct` leaves; computes nothing."""
  struct = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32)
  parts = [{name: struct(leaf) for name, leaf in part.items()} for part in _described(config)]
  return join(*map(parameters.unflatten, parts))


@functools.partial(jax.jit, static_argnums=0)
def init(config, key: jax.Array) -> Weights:
  """Return fresh float32 weights, by the initialisers of the family's table.

  Args:
    config: the model.
    key: a `jax.random.key`.
  """
  described = _described(config)
  arrays = {}
  for i, (name, (row, shape)) in enumerate({**described.params, **described.state}.items()):
    arrays[name] = row.init(config, jax.random.fold_in(key, i), shape)
  parts = [{name: arrays[name] for name in part} for part in described]
  return join(*map(parameters.unflatten, parts))


def apply(
  config, params: Weights, images, *, train: bool = False, key: jax.Array | None = None, state=None
) -> jax.Array:
  """Logits, (B, num_classes) float32.

  Args:
    config: the model; its type chooses the family.
    params: what `init` or `load` returned.
    images: (B, image_size, image_size, 3), RGB: floats in the config's
      `input_range`, or uint8 in 0..255, which is mapped to it. Outside of a jitted function
      their maximum is computed, to refuse floats in 0..255.
    train: draw stochastic depth and dropout, and use the statistics of this batch where the
      family keeps running ones.
    key: a `jax.random.key`, needed if `train` and the config has either.
    state: the model state of a family that has one, where `params` are without it.

  Raises:
    UserError: images of another shape or dtype or floats in 0..255, params of another model, or
      no key or state where one is needed.
  """
  inputs.check(config, images)
  return _apply(config, params, images, train=train, key=key, state=state)


@functools.partial(jax.jit, static_argnums=0, static_argnames='train', inline=True)
def _apply(config, params: Weights, images, *, train: bool, key: jax.Array | None, state):
  params = params if state is None else join(params, state)
  return _run(config, params, images, train, key)[0]['logits']


@functools.partial(jax.jit, static_argnums=0, inline=True)
def apply_in_training(config, params: Weights, images, key: jax.Array | None):
  """Return logits of `apply(train=True)` and the new model state, {} of a family without one."""
  features, state = _run(config, params, images, True, key)
  return features['logits'], state


def features(config, params: Weights, images) -> dict[str, jax.Array]:
  """Every intermediate of a forward pass by name, in order of depth; images as for `apply`.

  For a Mixer: `stem`, `block_i/token_mixing/{norm,residual}`, `block_i/channel_mixing/norm`
  and `block_i` are (B, S, C); `block_i/token_mixing/hidden` is (B, C, tokens_mlp_dim),
  `block_i/channel_mixing/hidden` (B, S, channels_mlp_dim), both after the GELU;
  `pre_logits` is (B, C) float32 and `logits` (B, num_classes) float32. S = tokens.

  For a ViT: `stem`, the patches before positions are added, (B, patches, C); `embedded`, what the
  first block is given, and in each block `block_i/attention/{norm,residual}`, `block_i/mlp/norm`
  and `block_i` are (B, S, C); `block_i/attention/{query,key,value}` are (B, S, heads, C / heads)
  and `block_i/mlp/hidden`, after the GELU, (B, S, mlp_dim). S = tokens, of which a class token is
  the first; `pre_logits` and `logits` as a Mixer's.

  For a ResNet: `stem` and `block_i`, the output of each bottleneck unit, (B, H, W, C);
  `pre_logits` and `logits` as a Mixer's.
  """
  inputs.check(config, images)
  return _features(config, params, images)


@functools.partial(jax.jit, static_argnums=0, inline=True)
def _features(config, params: Weights, images) -> dict[str, jax.Array]:
  return _run(config, params, images, False, None)[0]


def _run(config, weights: Weights, images, train: bool, key: jax.Array | None):
  module = family.of(config)
  if train and key is None and _ask(module, 'is_stochastic', config, False):
    raise UserError('apply(train=True) with stochastic depth or dropout needs key=')
  floats = inputs.as_floats(config, images)
  params, state = split(weights)
  described, model = _described(config), f'a {module.NAME}'
  for what, found, wanted in zip(('params', 'state'), (params, state), described, strict=True):
    shapes = {name: leaf.shape for name, leaf in wanted.items()}
    parameters.check(config, shapes, found, model, what)
  return module.run(config, params, floats, state=state, train=train, key=key if train else None)


def _ask(module, name: str, config, default):
  """Return what an optional function of the family says."""
  found = getattr(module, name, None)
  return default if found is None else found(config)


def architecture(config) -> dict[str, Any]:
  """The fields that the weights decide, except the image size and the number of classes."""
  return {name: getattr(config, name) for name in ('family', *family.of(config).ARCHITECTURE)}


def is_field(name: str) -> bool:
  """Return True if the configs of some family have a field of this name."""
  configs = [module.Config for module in family.load_all().values()]
  return any(field.name == name for config in configs for field in dataclasses.fields(config))


def fields_of_weights(fields: Mapping[str, Any]) -> tuple[str, ...]:
  """Names of the fields of a model that a checkpoint decides, where a run starts from one.

  Args:
    fields: of `config.model`.
  """
  module = family.load(fields.get('family', family.DEFAULT))
  return ('family', *module.ARCHITECTURE, *_arithmetic(module))


def summary(config) -> dict[str, Any]:
  """Fields and properties that describe the sizes of a model."""
  module = family.of(config)
  names = getattr(module, 'SUMMARY', module.ARCHITECTURE)
  return {name: getattr(config, name) for name in names}


def arithmetic(config) -> tuple[str, ...]:
  """Names of the fields that change the result and that a weights file does not hold."""
  return _arithmetic(family.of(config))


def _arithmetic(module) -> tuple[str, ...]:
  return getattr(module, 'ARITHMETIC', ('input_range',))


def with_arithmetic(config, **fields: str):
  """Return the config with other values of its arithmetic, such as `gelu` or `dtype`.

  Raises:
    UserError: its family has no such field, or not with this value.
  """
  known = (*arithmetic(config), 'dtype')
  for name in fields:
    if name not in known:
      words = {'gelu': 'GELU'}.get(name, name)
      raise UserError(f'{variant_of(config)} is a {family.of(config).NAME}: it has no {words}')
  return dataclasses.replace(config, **fields)


def activation(config) -> str:
  """Name of the nonlinearity: 'gelu tanh', 'relu'; '' where the family does not say."""
  return _ask(family.of(config), 'activation', config, '')


def variant_of(config) -> str:
  """Return the usual name of the model: 'B/16', 'B/16 grown to 448 px', 'BiT-R50x1'."""
  module = family.of(config)
  return _ask(module, 'variant_of', config, None) or next(
    (name for name, variant in getattr(module, 'VARIANTS', {}).items() if variant == config),
    module.NAME,
  )


def base_variant(config) -> str:
  """Return the name of the variant without its growth: 'B/16' for 'B/16 grown to 448 px'."""
  return _ask(family.of(config), 'base_variant', config, None) or variant_of(config)


def with_zero_head(config, params: Weights, num_classes: int) -> tuple[Any, Weights]:
  """Return the same body under a new head for `num_classes`: zeros, its bias at `head_bias`.

  Layers that belong to the old head, which the family knows, are dropped with it.
  """
  params, state = split(params)
  if without_head := getattr(family.of(config), 'without_head', None):
    config, params = without_head(config, params)
  config = dataclasses.replace(config, num_classes=num_classes)
  shape = param_shapes(config)
  kernel = np.zeros(shape['head/kernel'], np.float32)
  bias = np.full(shape['head/bias'], config.head_bias, np.float32)
  return config, join({**params, 'head': {'kernel': kernel, 'bias': bias}}, state)


def num_params(config) -> int:
  """Number of parameters, head included; the model state is not counted."""
  return sum(map(math.prod, param_shapes(config).values()))


def num_head_params(config) -> int:
  """Number of parameters of the classification head."""
  found = param_shapes(config).items()
  return sum(math.prod(shape) for name, shape in found if name.startswith('head/'))


def decayed(params: Any, config=None) -> Any:
  """Tree of bools: the parameters that the optimizer's weight decay applies to.

  Args:
    params: a tree of params.
    config: whose params they are; None: the family is recognised by their names.

  Raises:
    ValueError: they are of no family.
  """
  names = list(parameters.flatten(params))
  _, rows = family.find_rows(names, config)
  mask = [rows[name][1].decay for name in names]
  return jax.tree.unflatten(jax.tree.structure(params), mask)


def mesh_axes(names: list[str], config=None) -> dict[str, tuple[str | None, ...]]:
  """Name -> for each axis of the array, the axis of the device mesh that splits it, or None.

  Args:
    names: paths of leaves that end in the name of a parameter or state array, as those of the
      optimizer's moments do.
    config: whose they are; None: the family is recognised by the names.

  Raises:
    ValueError: a name is of no parameter.
  """
  module, rows = family.find_rows(names, config)
  return {
    name: tuple(module.SPLIT.get(letter) for letter in row.axes) for name, (_, row) in rows.items()
  }


def kinds(names: list[str], config) -> dict[str, str]:
  """Name -> the name with `*` for the number of the block, which all blocks share."""
  _, rows = family.find_rows(names, config)
  return {name: pattern for name, (pattern, _) in rows.items()}
