"""A Mixer of some of another's blocks.

A block adds to the tokens that it is given (the paper's equation 1), so that the blocks behind it
fit as well without it: to leave it out is the same as to zero what its two branches add.
"""

import dataclasses
import itertools
from collections.abc import Sequence

from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig, ModelConfig

Blocks = tuple[int, ...]
"""Numbers of blocks, ascending."""


def with_blocks(
  config: ModelConfig, params: dict, blocks: Sequence[int]
) -> tuple[MixerConfig, dict]:
  """The Mixer of these blocks of another, renumbered from 0; all arrays are passed through.

  It is a Mixer like any other: stochastic depth, if trained with, is linear over the blocks that
  it has.

  Args:
    blocks: numbers of those that stay, ascending.

  Raises:
    UserError: none stays, numbers that are not ascending or of no block, or not a Mixer.
  """
  if not isinstance(config, MixerConfig):
    kind = type(config).__name__.removesuffix('Config')
    raise UserError(
      f'a {kind} has blocks that need each other: only of a Mixer can some be left out'
    )
  blocks = tuple(blocks)
  last = config.num_blocks - 1
  if not blocks or any(type(block) is not int for block in blocks):
    raise UserError('no blocks are left: name those that stay, as in 0,1,3')
  if any(a >= b for a, b in itertools.pairwise(blocks)):
    raise UserError(f'blocks {_text(blocks)} must ascend, each named once')
  if blocks[0] < 0 or blocks[-1] > last:
    raise UserError(f'blocks {_text(blocks)}: this Mixer has blocks 0 to {last}')
  kept = {name: leaves for name, leaves in params.items() if not name.startswith('MixerBlock_')}
  for new, old in enumerate(blocks):
    kept[f'MixerBlock_{new}'] = params[f'MixerBlock_{old}']
  return dataclasses.replace(config, num_blocks=len(blocks)), kept


def without(blocks: Blocks, gone: Sequence[int]) -> Blocks:
  """All of `blocks` but these."""
  return tuple(block for block in blocks if block not in gone)


def _text(blocks: Sequence[int]) -> str:
  return ','.join(map(str, blocks))
