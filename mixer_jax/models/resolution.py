"""A Mixer at K times its image size, by the paper's block-diagonal growth (section 3, Appendix C).

The larger image is cut into K×K equal spatial parts, and a copy of the old token
MLP handles each: both token kernels become block-diagonal. Right after growth the
logits of an image are the mean of the small model's logits on its K² parts.
"""

import dataclasses
from typing import Any

import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig
from mixer_jax.models.resnet import ResNetConfig


def grow(config: ModelConfig, params: dict, image_size: int) -> tuple[Any, dict]:
  """The same Mixer for images of `image_size` pixels, an integer multiple K of its own.

  Tokens and token-MLP width grow by K². Arrays come back on the host (NumPy);
  those that do not change are passed through. A ResNet is as it is at any size.

  Raises:
    UserError: `image_size` is not a multiple of `config.image_size`.
  """
  if isinstance(config, ResNetConfig):
    return dataclasses.replace(config, image_size=image_size), params
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
  """Raster index in the large image of each token when these are listed part by part.

  `grid` is the old number of tokens along a side. Shape (factor² · grid²,).
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
