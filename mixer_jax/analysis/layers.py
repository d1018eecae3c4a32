"""Layers of a model by name: which there are, which are chosen, and what is kept of an image."""

import difflib
import functools
import re
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from mixer_jax import models
from mixer_jax.errors import UserError

REDUCTIONS = ('flatten', 'tokens')


@functools.lru_cache(maxsize=64)
def layer_names(config) -> tuple[str, ...]:
  """Names of all that `models.features` gives for this model, in order of depth."""
  images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.uint8)
  seen = jax.eval_shape(functools.partial(models.features, config), models.shapes(config), images)
  return tuple(seen)


def choose(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
  """The names that match any of the patterns, in the order of `names`: by depth.

  `*` stands for any characters but '/': 'block_*' is the blocks' outputs,
  '*/channel_mixing/hidden' the hidden activations, '*/*/norm' all norms.

  Raises:
    UserError: a pattern that matches none, with the nearest that would; no patterns.
  """
  patterns = [patterns] if isinstance(patterns, str) else list(patterns)
  if not patterns:
    raise UserError("no patterns to choose layers by: 'block_*' gives the output of every block")
  chosen = set()
  for pattern in patterns:
    expression = re.compile('[^/]*'.join(map(re.escape, pattern.split('*'))))
    matches = {name for name in names if expression.fullmatch(name)}
    if not matches:
      # Names that differ in a number only would fill the message: they are told as one.
      kinds = list(dict.fromkeys(re.sub(r'\d+', '*', name) for name in names))
      near = ', '.join(difflib.get_close_matches(pattern, kinds, n=4, cutoff=0))
      raise UserError(f'no layer matches {pattern!r}: the nearest are {near}')
    chosen |= matches
  return [name for name in names if name in chosen]


def reduced(features: Mapping[str, jax.Array], how: str) -> dict[str, jax.Array]:
  """Features with one row an image, as CKA takes them.

  'flatten' leaves them as they are: each token and channel is a feature. 'tokens' averages
  (B, S, C) over tokens, in float32, to (B, C), and so does (B, H, W, C). What has no token
  axis stays as it is: `pre_logits`, and `token_mixing/hidden`, (B, C, tokens_mlp_dim), where
  the tokens have been mixed into units, of which each sees all tokens.

  Raises:
    UserError: another `how`.
  """
  check_reduction(how)

  def without_tokens(name, array):
    axes = models.position_axes(name, array.ndim)
    return jnp.mean(array, axis=axes, dtype=jnp.float32) if axes else array

  if how == 'flatten':
    return dict(features)
  return {name: without_tokens(name, array) for name, array in features.items()}


def check_layers(config, names: Sequence[str]) -> None:
  """Raises `UserError` unless there are names, and the model has them all."""
  known = set(layer_names(config))
  missing = [name for name in names if name not in known]
  if missing or not names:
    raise UserError(f'no layer {missing[0]!r} in this model' if missing else 'no layers chosen')


def check_reduction(how: str) -> None:
  """Raises `UserError` unless `reduced` knows it."""
  if how not in REDUCTIONS:
    raise UserError(f'features are reduced by {" or ".join(map(repr, REDUCTIONS))}, not {how!r}')
