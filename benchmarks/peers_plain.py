"""Textbook Flax Linen forms of the models, for peers.py: from the papers, without this package.

Their parameters have the names of this package. Images are uint8; logits are float32.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp


class Mlp(nn.Module):
  """Dense, exact GELU, Dense."""

  width: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    hidden = nn.gelu(nn.Dense(self.width, dtype=self.dtype)(x), approximate=False)
    return nn.Dense(x.shape[-1], dtype=self.dtype)(hidden)


class MixerBlock(nn.Module):
  """A block that mixes tokens, then channels."""

  tokens_width: int
  channels_width: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    y = nn.LayerNorm(dtype=self.dtype)(x)
    y = jnp.swapaxes(y, 1, 2)
    y = Mlp(self.tokens_width, self.dtype, name='token_mixing')(y)
    x = x + jnp.swapaxes(y, 1, 2)
    y = nn.LayerNorm(dtype=self.dtype)(x)
    return x + Mlp(self.channels_width, self.dtype, name='channel_mixing')(y)


def _patches(c, images, name: str):
  """(B, H, W, 3) -> (B, S, C)."""
  patch = (c.patch_size, c.patch_size)
  x = images.astype(jnp.float32) / 127.5 - 1
  x = nn.Conv(c.hidden_dim, patch, strides=patch, dtype=c.dtype, name=name)(x)
  return x.reshape(x.shape[0], -1, x.shape[-1])


def _head(c, x):
  return nn.Dense(c.num_classes, name='head')(x.astype(jnp.float32))


class Mixer(nn.Module):
  """MLP-Mixer."""

  config: Any

  @nn.compact
  def __call__(self, images):
    c = self.config
    x = _patches(c, images, 'stem')
    for i in range(c.num_blocks):
      widths = (c.tokens_mlp_dim, c.channels_mlp_dim)
      x = MixerBlock(*widths, c.dtype, name=f'MixerBlock_{i}')(x)
    x = nn.LayerNorm(dtype=c.dtype, name='pre_head_layer_norm')(x)
    return _head(c, x.mean(axis=1))


class EncoderBlock(nn.Module):
  """A block of attention and an MLP, each after a LayerNorm."""

  config: Any

  @nn.compact
  def __call__(self, x):
    c = self.config
    y = nn.LayerNorm(dtype=c.dtype, name='LayerNorm_0')(x)
    attention = nn.MultiHeadDotProductAttention(
      c.num_heads, dtype=c.dtype, name='MultiHeadDotProductAttention_1'
    )
    x = x + attention(y)
    y = nn.LayerNorm(dtype=c.dtype, name='LayerNorm_2')(x)
    return x + Mlp(c.mlp_dim, c.dtype, name='MlpBlock_3')(y)


class Encoder(nn.Module):
  """Position embeddings, blocks, LayerNorm."""

  config: Any

  @nn.compact
  def __call__(self, x):
    c = self.config
    x = x + Positions(name='posembed_input')(x)
    for i in range(c.num_blocks):
      x = EncoderBlock(c, name=f'encoderblock_{i}')(x)
    return nn.LayerNorm(dtype=c.dtype, name='encoder_norm')(x)


class Positions(nn.Module):
  """One learned vector per token."""

  @nn.compact
  def __call__(self, x):
    return self.param('pos_embedding', nn.initializers.normal(0.02), (1, *x.shape[1:])).astype(
      x.dtype
    )


class ViT(nn.Module):
  """Vision Transformer with a class token, without a representation layer."""

  config: Any

  @nn.compact
  def __call__(self, images):
    c = self.config
    x = _patches(c, images, 'embedding')
    token = self.param('cls', nn.initializers.zeros, (1, 1, c.hidden_dim)).astype(x.dtype)
    x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
    x = Encoder(c, name='Transformer')(x)
    return _head(c, x[:, 0])


class StandardizedConv(nn.Module):
  """Convolution whose kernel has mean 0 and variance 1 for each output."""

  channels: int
  size: int
  stride: int
  dtype: Any

  @nn.compact
  def __call__(self, x):
    shape = (self.size, self.size, x.shape[-1], self.channels)
    kernel = self.param('kernel', nn.initializers.lecun_normal(), shape)
    centred = kernel - kernel.mean((0, 1, 2))
    kernel = centred / jnp.sqrt((centred**2).mean((0, 1, 2)) + 1e-10)
    around = (self.size // 2, self.size // 2)
    return jax.lax.conv_general_dilated(
      x.astype(self.dtype),
      kernel.astype(self.dtype),
      (self.stride, self.stride),
      (around, around),
      dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
    )


class Bottleneck(nn.Module):
  """1×1, 3×3 and 1×1 convolution, each after GroupNorm and ReLU."""

  channels: int
  stride: int
  is_first: bool
  config: Any

  @nn.compact
  def __call__(self, x):
    c = self.config
    norm = lambda x, i: nn.relu(
      nn.GroupNorm(c.groups, epsilon=1e-5, dtype=c.dtype, name=f'GroupNorm_{i}')(x)
    )
    conv = lambda channels, size, stride, name: StandardizedConv(
      channels, size, stride, c.dtype, name=name
    )
    y = norm(x, 0)
    if self.is_first:
      x = conv(4 * self.channels, 1, self.stride, 'projection')(y)
    y = norm(conv(self.channels, 1, 1, 'Conv_0')(y), 1)
    y = norm(conv(self.channels, 3, self.stride, 'Conv_1')(y), 2)
    return x + conv(4 * self.channels, 1, 1, 'Conv_2')(y)


class BiT(nn.Module):
  """Big Transfer's ResNet-v2 with the stem of ImageNet."""

  config: Any

  @nn.compact
  def __call__(self, images):
    c = self.config
    channels, number = int(64 * c.width), 0
    x = images.astype(jnp.float32) / 127.5 - 1
    x = StandardizedConv(channels, 7, 2, c.dtype, name='stem')(x)
    x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    x = nn.max_pool(x, (3, 3), (2, 2))
    for stage, count in enumerate(map(int, c.stages.split(','))):
      for unit in range(count):
        stride = 2 if stage and not unit else 1
        name = f'ResNetBlock_{number}'
        x = Bottleneck(channels << stage, stride, not unit, c, name=name)(x)
        number += 1
    x = nn.GroupNorm(c.groups, epsilon=1e-5, dtype=c.dtype, name='pre_head_group_norm')(x)
    return _head(c, nn.relu(x).mean(axis=(1, 2)))


FORMS = {'mixer': Mixer, 'vit': ViT, 'resnet': BiT}
"""Family -> module of a config."""
