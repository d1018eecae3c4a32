"""Pictures of what the stem, token mixing and position embeddings of a checkpoint have learned."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from mixer_jax import checkpoints, models
from mixer_jax.analysis import position_embeddings, token_units
from mixer_jax.errors import UserError
from mixer_jax.pictures import attention_pictures, mosaics
from mixer_jax.runs.npz import npz_bytes

BLOCKS = 3
"""Number of blocks that the paper shows."""


@dataclasses.dataclass(frozen=True)
class LearnedWeights:
  """Order and frequencies of learned units, similarity of positions, and their pictures.

  Attributes:
    arrays: 'stem/order' and 'stem/frequency'; of a model that mixes tokens by weights also
      'block_0/order', 'block_0/frequency', 'block_0/pair_cosine', …; of one with position
      embeddings 'positions/similarity'.
    titles: a line for each panel of the pictures.
    pictures: PNG files, of 'tokens', 'positions' and 'stem' those that the model has.
  """

  arrays: dict[str, np.ndarray]
  titles: list[str]
  pictures: dict[str, bytes]

  def npz(self) -> bytes:
    """Return `arrays` as the bytes of an .npz file."""
    return npz_bytes(**self.arrays)


def learned_weights(
  checkpoint: str, *, blocks: Sequence[int] | None = None, units: int = 384
) -> LearnedWeights:
  """Order the units of token mixing and the channels of the stem, and draw them.

  The similarity of position embeddings is drawn where a model has them.

  Args:
    checkpoint: what `mixer_jax.load` takes.
    blocks: whose token mixing is shown; None: the first three, of a model that has any.
    units: maximum number per picture, from low to high frequency.

  Raises:
    UserError: no such checkpoint or block, blocks of a model without weights that mix tokens, a
      model with nothing to draw, or too few units.
  """
  if units < 2:
    raise UserError(f'units={units}: show at least a pair')
  if blocks is not None and not blocks:
    raise UserError('no blocks: name at least one whose token mixing is shown')
  config, weights = checkpoints.load(checkpoint)
  params, _ = models.split(weights)
  name = f'{checkpoint[-60:]}\n'
  parts = {}
  if blocks is not None or models.has_capability(config, 'token_mixing'):
    numbers = range(min(BLOCKS, config.num_blocks)) if blocks is None else dict.fromkeys(blocks)
    parts['tokens'] = _token_mixing(config, params, numbers, units, name)
  if models.has_capability(config, 'position_embeddings'):
    parts['positions'] = _positions(config, params, name)
  if not parts or models.has_capability(config, 'stem_kernel'):
    parts['stem'] = _stem(config, params, units, name)
  return LearnedWeights(
    {key: array for part in parts.values() for key, array in part.arrays.items()},
    [title for part in parts.values() for title in part.titles],
    {kind: part.png for kind, part in parts.items()},
  )


class _Part(NamedTuple):
  """One picture, and the arrays behind it."""

  arrays: dict[str, np.ndarray]
  titles: list[str]
  png: bytes


def _token_mixing(config, params: dict, blocks: Iterable[int], units: int, name: str) -> _Part:
  arrays, panels, side = {}, {}, 0
  for block in blocks:
    pictures = token_units.token_units(config, params, block)
    side = pictures.shape[1]
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
  title = f'{name}units of token mixing over {side}×{side} tokens, next to their nearest opposites'
  return _Part(arrays, _lines(panels), mosaics.mosaics(panels, title, paired=True))


def _positions(config, params: dict, name: str) -> _Part:
  similarity = position_embeddings.similarity(config, params)
  side = len(similarity)
  title = f'position embeddings of {side}×{side} patches: cosine of each with all'
  png = attention_pictures.position_similarity(similarity, f'{name}{title}')
  return _Part({'positions/similarity': similarity}, [title], png)


def _stem(config, params: dict, units: int, name: str) -> _Part:
  patches = token_units.stem_patches(config, params)
  frequency = token_units.frequencies(patches)
  order = np.argsort(frequency, kind='stable')
  shown = token_units.spread(order, units, group=1)
  panels = {_caption('stem', shown, order, frequency): patches[shown]}
  title = f'{name}weights of the stem over {"×".join(map(str, patches.shape[1:3]))} pixels'
  arrays = {'stem/order': order, 'stem/frequency': frequency}
  return _Part(arrays, _lines(panels), mosaics.mosaics(panels, title, paired=False))


def _lines(captions: Iterable[str]) -> list[str]:
  return [caption.replace('\n', ', ') for caption in captions]


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
