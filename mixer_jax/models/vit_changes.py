"""ViTs made of the parameters of another: other image sizes, fewer blocks, permuted images."""

import dataclasses

import numpy as np

from mixer_jax.errors import UserError

_POSITIONS = ('Transformer', 'posembed_input', 'pos_embedding')


def grow(config, params: dict, image_size: int) -> tuple:
  """Return the ViT for images of another size, larger or smaller.

  The grid of learned position embeddings is resized linearly, corner to corner, as the authors do
  (`scipy.ndimage.zoom` of order 1); the class token keeps its own. All else is passed through.

  Raises:
    UserError: `image_size` is not a multiple of `config.patch_size`.
  """
  grown = dataclasses.replace(config, image_size=image_size)
  if config.num_positions == grown.num_positions:
    return grown, params
  from scipy import ndimage  # takes a tenth of a second to import

  table_SC = np.asarray(_positions(params))[0]
  own, grid = np.split(table_SC, [config.num_class_tokens])
  before, after = (c.image_size // c.patch_size for c in (config, grown))
  grid = grid.reshape(before, before, -1)
  resized = ndimage.zoom(grid, (after / before, after / before, 1), order=1)
  table_SC = np.concatenate([own, resized.reshape(after**2, -1)])
  return grown, _with_positions(params, table_SC[None])


def keep_blocks(config, params: dict, blocks: tuple[int, ...]) -> tuple:
  """Return the ViT of these blocks, renumbered from 0; all arrays are passed through.

  A block adds to the tokens that it is given, as a Mixer's does.
  """
  encoder = params['Transformer']
  kept = {k: leaves for k, leaves in encoder.items() if not k.startswith('encoderblock_')}
  for new, old in enumerate(blocks):
    kept[f'encoderblock_{new}'] = encoder[f'encoderblock_{old}']
  return dataclasses.replace(config, num_blocks=len(blocks)), {**params, 'Transformer': kept}


def without_head(config, params: dict) -> tuple:
  """Return the ViT without its representation layer, as the authors fine-tune it."""
  kept = {name: leaves for name, leaves in params.items() if name != 'pre_logits'}
  return dataclasses.replace(config, representation_size=0), kept


def match_permutation(config, params: dict, patches: np.ndarray, within: np.ndarray) -> dict:
  """Return params that give permuted images the logits that `params` give the images.

  Attention knows no neighbours but by the position embeddings. The rows of the stem follow the
  pixels, the position embeddings the patches; nothing else changes. Arrays that change come back
  on the host (NumPy).

  Args:
    config: the ViT; its patches are those of the permutation.
    params: its parameters.
    patches: (S,), the patch that each position is given; see `data.permute.of_patches`.
    within: (P²,), the pixel that each position in a patch is given.

  Raises:
    UserError: its positions are not learned.
  """
  if not config.num_positions:
    raise UserError(
      f"model.position='{config.position}' is fixed: only learned positions follow a permutation"
    )
  kernel = np.asarray(params['embedding']['kernel'])
  rows = kernel.reshape(config.patch_size**2, *kernel.shape[2:])[within]
  own, grid = np.split(np.asarray(_positions(params)), [config.num_class_tokens], axis=1)
  matched = _with_positions(params, np.concatenate([own, grid[:, patches]], axis=1))
  return {**matched, 'embedding': {**params['embedding'], 'kernel': rows.reshape(kernel.shape)}}


def _positions(params: dict):
  for name in _POSITIONS:
    params = params[name]
  return params


def _with_positions(params: dict, table: np.ndarray) -> dict:
  encoder = {**params['Transformer'], 'posembed_input': {'pos_embedding': table}}
  return {**params, 'Transformer': encoder}
