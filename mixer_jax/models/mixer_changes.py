"""Mixers made of the parameters of another: larger images, fewer blocks, permuted images."""

import dataclasses

import numpy as np

from mixer_jax.errors import UserError


def grow(config, params: dict, image_size: int) -> tuple:
  """Return the Mixer for K times the image size, K an integer (section 3, Appendix C).

  The larger image is cut into K×K equal parts, and a copy of the old token MLP handles each: both
  token kernels become block-diagonal. Right after growth the logits of an image are the mean of
  the small model's logits on its K² parts. Tokens and width of the token MLPs grow by K². Arrays
  that change come back on the host (NumPy); the others are passed through.

  Raises:
    UserError: `image_size` is not a multiple of `config.image_size`.
  """
  factor, rest = divmod(image_size, config.image_size)
  if rest or factor < 1:
    raise UserError(
      f'image size {image_size} is not an integer multiple of the {config.image_size} px that '
      f'this model was trained at: take {config.image_size * max(factor, 1)} or '
      f'{config.image_size * (max(factor, 1) + 1)}'
    )
  if factor == 1:
    return config, params
  tokens = _part_major(config.image_size // config.patch_size, factor)
  grown = dict(params)
  for i in range(config.num_blocks):
    block = params[f'MixerBlock_{i}']
    mixing = _grow_token_mlp(block['token_mixing'], tokens, factor**2)
    grown[f'MixerBlock_{i}'] = {**block, 'token_mixing': mixing}
  config = dataclasses.replace(
    config, image_size=image_size, tokens_mlp_dim=factor**2 * config.tokens_mlp_dim
  )
  return config, grown


def _part_major(grid: int, factor: int) -> np.ndarray:
  """Raster index in the large image of each token, listed part by part, (factor² · grid²,).

  `grid` is the old number of tokens per side.
  """
  raster = np.arange((factor * grid) ** 2).reshape(factor, grid, factor, grid)
  return raster.transpose(0, 2, 1, 3).reshape(-1)  # part row, part column, row, column


def _grow_token_mlp(mlp: dict, tokens: np.ndarray, parts: int) -> dict:
  first, second = ({k: np.asarray(v) for k, v in mlp[f'Dense_{i}'].items()} for i in (0, 1))
  diagonal = np.eye(parts, dtype=first['kernel'].dtype)
  kernel_0 = np.empty((tokens.size, parts * first['kernel'].shape[1]), first['kernel'].dtype)
  kernel_0[tokens, :] = np.kron(diagonal, first['kernel'])
  kernel_1 = np.empty(kernel_0.shape[::-1], second['kernel'].dtype)
  kernel_1[:, tokens] = np.kron(diagonal, second['kernel'])
  bias_1 = np.empty(tokens.size, second['bias'].dtype)
  bias_1[tokens] = np.tile(second['bias'], parts)
  return {
    'Dense_0': {'kernel': kernel_0, 'bias': np.tile(first['bias'], parts)},
    'Dense_1': {'kernel': kernel_1, 'bias': bias_1},
  }


def keep_blocks(config, params: dict, blocks: tuple[int, ...]) -> tuple:
  """Return the Mixer of these blocks, renumbered from 0; all arrays are passed through.

  A block adds to the tokens that it is given (the paper's equation 1), so leaving it out is the
  same as setting to zero what its two branches add. Stochastic depth, if it is trained with, is
  linear over the blocks that are left.
  """
  kept = {name: leaves for name, leaves in params.items() if not name.startswith('MixerBlock_')}
  for new, old in enumerate(blocks):
    kept[f'MixerBlock_{new}'] = params[f'MixerBlock_{old}']
  return dataclasses.replace(config, num_blocks=len(blocks)), kept


def stem_kernel(config, params: dict) -> np.ndarray:
  """Return the kernel of the stem, (P, P, 3, C)."""
  del config
  return np.asarray(params['stem']['kernel'])


def token_mixing(config, params: dict, block: int) -> np.ndarray:
  """First kernel of a block's token MLP, (S, T): what each unit weighs of each token.

  Tokens are in raster order, in a grown Mixer too.

  Raises:
    UserError: there is no such block.
  """
  if not 0 <= block < config.num_blocks:
    raise UserError(f'no block {block}: this Mixer has blocks 0 to {config.num_blocks - 1}')
  return np.asarray(params[f'MixerBlock_{block}']['token_mixing']['Dense_0']['kernel'])


def match_permutation(config, params: dict, patches: np.ndarray, within: np.ndarray) -> dict:
  """Return params that give permuted images the logits that `params` give the images.

  A Mixer's token mixing knows no neighbours, and its stem no positions in a patch. The rows of
  the stem follow the pixels, the token axes of the token MLPs the patches; nothing else changes.
  Arrays that change come back on the host (NumPy).

  Args:
    config: the Mixer; its patches are those of the permutation.
    params: its parameters.
    patches: (S,), the patch that each position is given; see `data.permute.of_patches`.
    within: (P²,), the pixel that each position in a patch is given.
  """
  kernel = np.asarray(params['stem']['kernel'])
  rows = kernel.reshape(config.patch_size**2, *kernel.shape[2:])[within]
  matched = {**params, 'stem': {**params['stem'], 'kernel': rows.reshape(kernel.shape)}}
  for i in range(config.num_blocks):
    block = params[f'MixerBlock_{i}']
    into, out = block['token_mixing']['Dense_0'], block['token_mixing']['Dense_1']
    mixing = {
      'Dense_0': {**into, 'kernel': np.asarray(into['kernel'])[patches]},
      'Dense_1': {
        'kernel': np.asarray(out['kernel'])[:, patches],
        'bias': np.asarray(out['bias'])[patches],
      },
    }
    matched[f'MixerBlock_{i}'] = {**block, 'token_mixing': mixing}
  return matched
