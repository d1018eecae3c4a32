"""Pictures of what token mixing and the stem of a checkpoint have learned (section 3.5)."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mixer_jax import checkpoints, models
from mixer_jax.analysis import token_units
from mixer_jax.errors import UserError
from mixer_jax.pictures import mosaics
from mixer_jax.runs.npz import npz_bytes

BLOCKS = 3
"""Number of blocks that the paper shows."""


@dataclasses.dataclass(frozen=True)
class LearnedWeights:
  """Order and frequencies of learned units, and their pictures.

  Attributes:
    arrays: 'block_0/order', 'block_0/frequency', 'block_0/pair_cosine', …, 'stem/order' and
      'stem/frequency'.
    titles: a line for each block.
    tokens, stem: PNG files.
  """

  arrays: dict[str, np.ndarray]
  titles: list[str]
  tokens: bytes
  stem: bytes

  def npz(self) -> bytes:
    """Return `arrays` as the bytes of an .npz file."""
    return npz_bytes(**self.arrays)


def learned_weights(
  checkpoint: str, *, blocks: Sequence[int] | None = None, units: int = 384
) -> LearnedWeights:
  """Order the units of token mixing and the channels of the stem, and draw them.

  Args:
    checkpoint: what `mixer_jax.load` takes.
    blocks: whose token mixing is shown; None: the first three.
    units: maximum number per picture, from low to high frequency.

  Raises:
    UserError: no such checkpoint or block, a model that does not mix tokens, or too few units.
  """
  if units < 2:
    raise UserError(f'units={units}: show at least a pair')
  if blocks is not None and not blocks:
    raise UserError('no blocks: name at least one whose token mixing is shown')
  config, params = checkpoints.load(checkpoint)
  models.capability(config, 'token_mixing')
  numbers = range(min(BLOCKS, config.num_blocks)) if blocks is None else dict.fromkeys(blocks)
  arrays, panels = {}, {}
  for block in numbers:
    pictures = token_units.token_units(config, params, block)
    frequency = token_units.frequencies(pictures)
    order = token_units.in_opposite_pairs(pictures, frequency)
    cosines = token_units.pair_cosines(pictures, order)
    arrays |= {
      f'block_{block}/order': order,
      f'block_{block}/frequency': frequency,
      f'block_{block}/pair_cosine': cosines,
    }
    shown = token_units.spread(order, units)
    panels[_caption(f'block {block}', shown, order, frequency, cosines)] = pictures[shown]
  patches = token_units.stem_patches(params)
  frequency = token_units.frequencies(patches)
  order = np.argsort(frequency, kind='stable')
  arrays |= {'stem/order': order, 'stem/frequency': frequency}
  shown = token_units.spread(order, units, group=1)
  name = f'{checkpoint[-60:]}\n'
  side = pictures.shape[1]
  tokens = f'{name}units of token mixing over {side}×{side} tokens, next to their nearest opposites'
  return LearnedWeights(
    arrays,
    [title.replace('\n', ', ') for title in panels],
    tokens=mosaics.mosaics(panels, tokens, paired=True),
    stem=mosaics.mosaics(
      {_caption('stem', shown, order, frequency): patches[shown]},
      f'{name}weights of the stem over a patch',
      paired=False,
    ),
  )


def _caption(
  title: str,
  shown: np.ndarray,
  order: np.ndarray,
  frequency: np.ndarray,
  cosines: np.ndarray | None = None,
) -> str:
  total = len(order)
  count = f'{total} units' if len(shown) == total else f'{len(shown)} of {total} units'
  unit = 'pixel' if cosines is None else 'token'
  text = f'{title}: {count}\nfrom {frequency.min():.2f} to {frequency.max():.2f} cycles per {unit}'
  if cosines is not None and cosines.size:
    text += f'\ncosine of the pairs {np.median(cosines):.2f} (median)'.replace('-', '−')
  return text
