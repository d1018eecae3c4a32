"""Models with only some of the blocks of another."""

import itertools
from collections.abc import Iterable, Sequence
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.models import family

Blocks = tuple[int, ...]
"""Numbers of blocks, ascending."""


def with_blocks(config, params: Any, blocks: Sequence[int]) -> tuple[Any, Any]:
  """Return the model of these blocks, renumbered from 0; all arrays are passed through.

  Args:
    config: a model of a family that can do without blocks, such as a Mixer.
    params: its weights.
    blocks: numbers of the blocks to keep, ascending.

  Raises:
    UserError: no blocks, numbers that do not ascend or that the model does not have, or a family
      that does not define `keep_blocks`.
  """
  keep_blocks = family.capability(config, 'keep_blocks')
  if isinstance(blocks, str) or not isinstance(blocks, Iterable):
    raise UserError(f'blocks are numbers, as in (0, 1, 3), not {blocks!r}')
  blocks = tuple(blocks)
  last = config.num_blocks - 1
  if not blocks or any(type(block) is not int for block in blocks):
    raise UserError('no blocks are left: name those that stay, as in 0,1,3')
  if any(a >= b for a, b in itertools.pairwise(blocks)):
    raise UserError(f'blocks {_text(blocks)} must ascend, each named once')
  if blocks[0] < 0 or blocks[-1] > last:
    name = family.of(config).NAME
    raise UserError(f'blocks {_text(blocks)}: this {name} has blocks 0 to {last}')
  return keep_blocks(config, params, blocks)


def without(blocks: Blocks, removed: Sequence[int]) -> Blocks:
  """All of `blocks` except the removed ones."""
  return tuple(block for block in blocks if block not in removed)


def _text(blocks: Sequence[int]) -> str:
  return ','.join(map(str, blocks))
