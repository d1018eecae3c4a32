"""Layers of a model by name: list, choice by patterns, and reduction of their features."""

import difflib
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mixer_jax.errors import UserError
from mixer_jax.evaluation.features import feature_shapes, spatial_axes

REDUCTIONS = ('flatten', 'tokens')


def layer_names(config) -> tuple[str, ...]:
  """Return the names of everything `models.features` returns for this model, in order of depth."""
  return tuple(feature_shapes(config))


def block_stream(config) -> list[str]:
  """Return the names of what the first block is given, and of the output of each block.

  What it is given comes right before the features of the first block: `stem` of a Mixer,
  `embedded` of a ViT, which has positions and the class token.
  """
  names = layer_names(config)
  first = next(i for i, name in enumerate(names) if name.split('/')[0] == 'block_0')
  return [names[first - 1], *(f'block_{i}' for i in range(config.num_blocks))]


def choose(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
  """Return the names that match any of the patterns, in the order of `names`: by depth.

  `*` stands for any characters except '/': 'block_*' selects the blocks' outputs, 'block_*/*/norm'
  all norms.

  Raises:
    UserError: a pattern matches no name (the message has the nearest names), or no patterns.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  if not patterns:
    raise UserError("no patterns to choose layers by: 'block_*' gives the output of every block")
  chosen = set()
  for pattern in patterns:
    expression = re.compile('[^/]*'.join(map(re.escape, pattern.split('*'))))
    matches = {name for name in names if expression.fullmatch(name)}
    if not matches:
      # Names that differ only in a number would fill the message: they are shown as one.
      kinds = list(dict.fromkeys(re.sub(r'\d+', '*', name) for name in names))
      near = ', '.join(difflib.get_close_matches(pattern, kinds, n=4, cutoff=0))
      raise UserError(f'no layer matches {pattern!r}: the nearest are {near}')
    chosen |= matches
  return [name for name in names if name in chosen]


def reduced(config, features: Mapping[str, jax.Array], how: str) -> dict[str, jax.Array]:
  """Reduce features of a model by name, each (B, …); for use under jit.

  Args:
    how: 'flatten' keeps everything. 'tokens' averages, in float32, over places in the image: (B, S,
      C) becomes (B, C), and (B, H, W, C) too. Features without such an axis stay as they are:
      `pre_logits`, or units into which the tokens have been mixed, of which each sees all tokens.

  Raises:
    UserError: another `how`.
  """
  check_reduction(how)
  if how == 'flatten':
    return dict(features)
  axes = spatial_axes(config)
  mean = lambda array, over: jnp.mean(array, axis=over, dtype=jnp.float32) if over else array
  return {name: mean(array, axes[name]) for name, array in features.items()}


def check_layers(config, names: Sequence[str]) -> None:
  """Raise `UserError` unless there are names, and the model has all of them."""
  known = set(layer_names(config))
  missing = [name for name in names if name not in known]
  if missing or not names:
    raise UserError(f'no layer {missing[0]!r} in this model' if missing else 'no layers chosen')


def check_reduction(how: str) -> None:
  """Raise `UserError` unless `reduced` knows this reduction."""
  if how not in REDUCTIONS:
    raise UserError(f'features are reduced by {" or ".join(map(repr, REDUCTIONS))}, not {how!r}')
