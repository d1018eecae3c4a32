"""Oracles: the golden numbers of the authors' Flax Mixer, and a Mixer in float64 NumPy."""

import json
import pathlib

import numpy as np
from scipy.special import erf

from mixer_jax.models import MixerConfig
from mixer_jax.models.parameters import unflatten

DATA = pathlib.Path(__file__).parent.parent / 'golden'


def golden() -> tuple[MixerConfig, dict, dict[str, np.ndarray]]:
  """Return config, params and expected numbers of the small reference Mixer."""
  sizes = json.loads((DATA / 'mixer_tiny.json').read_text())
  config = MixerConfig(
    patch_size=sizes['patch'],
    num_blocks=sizes['blocks'],
    hidden_dim=sizes['hidden_dim'],
    tokens_mlp_dim=sizes['tokens_mlp_dim'],
    channels_mlp_dim=sizes['channels_mlp_dim'],
    image_size=sizes['image'],
    num_classes=sizes['num_classes'],
  )
  with np.load(DATA / 'mixer_tiny.npz') as weights:
    params = unflatten(dict(weights))
  with np.load(DATA / 'mixer_tiny.expected.npz') as expected:
    return config, params, dict(expected)


def forward(config: MixerConfig, params: dict, images: np.ndarray) -> np.ndarray:
  """Return logits in float64, computed from the paper's equations with NumPy alone."""

  def dense(layer, x):
    return x @ np.asarray(layer['kernel'], np.float64) + layer['bias']

  def norm(layer, x):
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return x * layer['scale'] + layer['bias']

  def gelu(x):
    if config.gelu == 'erf':
      return x * (1 + erf(x / np.sqrt(2))) / 2
    return x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))) / 2

  def mlp(layers, x):
    return dense(layers['Dense_1'], gelu(dense(layers['Dense_0'], x)))

  size, grid = config.patch_size, config.image_size // config.patch_size
  x = np.asarray(images, np.float64).reshape(len(images), grid, size, grid, size, 3)
  x = x.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), grid**2, size**2 * 3)
  stem = {**params['stem'], 'kernel': np.reshape(params['stem']['kernel'], (size**2 * 3, -1))}
  x = dense(stem, x)
  for i in range(config.num_blocks):
    block = params[f'MixerBlock_{i}']
    y = norm(block['LayerNorm_0'], x).swapaxes(1, 2)
    x = x + mlp(block['token_mixing'], y).swapaxes(1, 2)
    x = x + mlp(block['channel_mixing'], norm(block['LayerNorm_1'], x))
  return dense(params['head'], norm(params['pre_head_layer_norm'], x).mean(1))
