"""The parameters of a Mixer: their published names, their shapes, and what is wrong with others.

A name is the path in the tree of params, joined by `/`. A shape is written in the
letters of `mixer.py`: P side of a patch, S tokens, C channels, N classes, T and F
the widths of the token and channel MLPs.
"""

import collections
from collections.abc import Iterable, Mapping
from typing import Any

import jax

from mixer_jax.errors import UserError

Shape = tuple[int, ...]

_OUTSIDE = {
  'stem/kernel': 'PP3C',
  'stem/bias': 'C',
  'pre_head_layer_norm/scale': 'C',
  'pre_head_layer_norm/bias': 'C',
  'head/kernel': 'CN',
  'head/bias': 'N',
}
_BLOCK = {
  'LayerNorm_0/scale': 'C',
  'LayerNorm_0/bias': 'C',
  'token_mixing/Dense_0/kernel': 'ST',
  'token_mixing/Dense_0/bias': 'T',
  'token_mixing/Dense_1/kernel': 'TS',
  'token_mixing/Dense_1/bias': 'S',
  'LayerNorm_1/scale': 'C',
  'LayerNorm_1/bias': 'C',
  'channel_mixing/Dense_0/kernel': 'CF',
  'channel_mixing/Dense_0/bias': 'F',
  'channel_mixing/Dense_1/kernel': 'FC',
  'channel_mixing/Dense_1/bias': 'C',
}
_FIELDS = {
  'P': 'patch_size',
  'S': 'num_tokens',
  'C': 'hidden_dim',
  'T': 'tokens_mlp_dim',
  'F': 'channels_mlp_dim',
  'N': 'num_classes',
}


def letters(num_blocks: int) -> dict[str, str]:
  """Name -> shape in letters, for a Mixer of so many blocks, in order of depth."""
  stem = {name: shape for name, shape in _OUTSIDE.items() if name.startswith('stem')}
  blocks = {
    f'MixerBlock_{i}/{name}': shape for i in range(num_blocks) for name, shape in _BLOCK.items()
  }
  return {**stem, **blocks, **_OUTSIDE}


def sizes(config) -> dict[str, int]:
  """Letter -> number, of a `MixerConfig`."""
  return {letter: getattr(config, field) for letter, field in _FIELDS.items()}


def expected(config) -> dict[str, Shape]:
  """Name -> shape of every parameter of the Mixer that a `MixerConfig` describes."""
  known = {'3': 3, **sizes(config)}
  return {
    name: tuple(known[letter] for letter in shape)
    for name, shape in letters(config.num_blocks).items()
  }


def read_sizes(num_blocks: int, found: Mapping[str, Shape]) -> dict[str, int]:
  """Letter -> number, as most of these arrays have it; a letter that none tells is left out."""
  votes: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
  for name, shape in letters(num_blocks).items():
    if len(found.get(name, ())) == len(shape):
      for letter, size in zip(shape, found[name], strict=True):
        votes[letter][size] += size > 0
  return {k: votes[k].most_common(1)[0][0] for k in _FIELDS if votes[k].total()}


def flatten(tree: Any) -> dict[str, Any]:
  """{'stem': {'kernel': a}} -> {'stem/kernel': a}, for a tree of any kind of leaves."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {jax.tree_util.keystr(path, simple=True, separator='/'): leaf for path, leaf in leaves}


def unflatten(arrays: Mapping[str, Any]) -> dict:
  """{'stem/kernel': a} -> {'stem': {'kernel': a}}."""
  params: dict = {}
  for name, array in arrays.items():
    *path, last = name.split('/')
    node = params
    for part in path:
      node = node.setdefault(part, {})
    node[last] = array
  return params


def check(config, wanted: Mapping[str, Shape], params: Mapping) -> None:
  """Raises `UserError` unless the params have the names and shapes that are wanted."""
  found = {name: getattr(leaf, 'shape', ()) for name, leaf in flatten(params).items()}
  told = faults(wanted, found, f'a {type(config).__name__.removesuffix("Config")}')
  if told:
    more = f' and {len(told) - 3} more' if len(told) > 3 else ''
    raise UserError(f'params are not those of {config}: {"; ".join(told[:3])}{more}')


def faults(
  wanted: Mapping[str, Any], found: Mapping[str, Shape], model: str = 'a Mixer'
) -> list[str]:
  """What is wrong with arrays of these names and shapes; [] if nothing."""
  told = [f'{name} {_text(wanted[name])} is missing' for name in wanted if name not in found]
  told += [
    f'{name} {_text(shape)} is not part of {model}' for name, shape in _others(wanted, found)
  ]
  for name, shape in wanted.items():
    if name in found and found[name] != shape:
      told.append(f'{name} has shape {_text(found[name])}, expected {_text(shape)}')
  return told


def _others(wanted, found) -> Iterable[tuple[str, Shape]]:
  return ((name, shape) for name, shape in found.items() if name not in wanted)


def _text(shape: Iterable) -> str:
  """(3, 4) as Python writes it; a letter stands for a size that nothing tells."""
  parts = [str(size) for size in shape]
  return f'({parts[0]},)' if len(parts) == 1 else f'({", ".join(parts)})'
