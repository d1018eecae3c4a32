"""Small models for tests: a config with a few fields changed, and parameters without zeros."""

from typing import Any

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.models import MixerConfig, ViTConfig


def tiny_mixer(**fields: Any) -> MixerConfig:
  """Return a Mixer of 2 blocks, width 16, on 4×4 tokens, with some fields changed."""
  sizes = {
    'patch_size': 4,
    'num_blocks': 2,
    'hidden_dim': 16,
    'tokens_mlp_dim': 8,
    'channels_mlp_dim': 32,
    'image_size': 16,
    'num_classes': 10,
  }
  return MixerConfig(**{**sizes, **fields})


def tiny_vit(**fields: Any) -> ViTConfig:
  """Return a ViT of 2 blocks, width 16, on 4×4 patches, with some fields changed."""
  sizes = {
    'patch_size': 4,
    'num_blocks': 2,
    'hidden_dim': 16,
    'mlp_dim': 32,
    'num_heads': 2,
    'image_size': 16,
    'num_classes': 10,
  }
  return ViTConfig(**{**sizes, **fields})


def random_params(config: models.ModelConfig, seed: int = 0, scale: float = 0.3) -> dict:
  """Return normal parameters: none is 0 or 1, so that an error in any of them shows."""
  rng = np.random.default_rng(seed)
  draw = lambda leaf: rng.normal(0, scale, leaf.shape).astype(np.float32)
  return jax.tree.map(draw, models.shapes(config))
