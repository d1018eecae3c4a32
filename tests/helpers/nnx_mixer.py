"""The Mixer as NNX modules that own their parameters: an independent network to compare with."""

import collections

import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.models import MixerConfig


class Mlp(nnx.Module):
  """Dense, GELU, Dense over the last axis; returns the output and the hidden activation."""

  def __init__(self, dim: int, mlp_dim: int, config: MixerConfig, rngs: nnx.Rngs):
    self.Dense_0 = nnx.Linear(dim, mlp_dim, dtype=config.dtype, rngs=rngs)
    self.Dense_1 = nnx.Linear(mlp_dim, dim, dtype=config.dtype, rngs=rngs)
    self.approximate = config.gelu == 'tanh'
    self.dropout = config.dropout

  def __call__(self, x, key):
    hidden = jax.nn.gelu(self.Dense_0(x), approximate=self.approximate)
    dropped = hidden
    if key is not None and self.dropout:
      keep = jax.random.bernoulli(key, 1 - self.dropout, hidden.shape)
      dropped = jnp.where(keep, hidden / (1 - self.dropout), 0)
    return self.Dense_1(dropped), hidden


def _layer_norm(config: MixerConfig, rngs: nnx.Rngs) -> nnx.LayerNorm:
  """Over channels; its result has the model's dtype."""
  return nnx.LayerNorm(
    config.hidden_dim,
    epsilon=1e-6,
    dtype=config.dtype,
    # Scale and bias stay float32. Rounded, their gradients are too, which keeps a TPU from summing
    # them in the multiply that makes what they are summed from.
    promote_dtype=lambda arrays, **how: arrays,
    rngs=rngs,
  )


class MixerBlock(nnx.Module):
  """LayerNorm, token MLP, skip; LayerNorm, channel MLP, skip (the paper's equation 1)."""

  def __init__(self, config: MixerConfig, index: int, rngs: nnx.Rngs):
    self.LayerNorm_0 = _layer_norm(config, rngs)
    self.token_mixing = Mlp(config.num_tokens, config.tokens_mlp_dim, config, rngs)
    self.LayerNorm_1 = _layer_norm(config, rngs)
    self.channel_mixing = Mlp(config.hidden_dim, config.channels_mlp_dim, config, rngs)
    self.skip_rate = config.stochastic_depth * index / max(config.num_blocks - 1, 1)

  def __call__(self, x_BSC, key):
    keys = [None] * 4 if key is None else jax.random.split(key, 4)
    token_norm_BSC = self.LayerNorm_0(x_BSC)
    y_BCS, token_hidden_BCT = self.token_mixing(token_norm_BSC.swapaxes(1, 2), keys[0])
    residual_BSC = x_BSC + self._stochastic_depth(y_BCS.swapaxes(1, 2), keys[1])
    channel_norm_BSC = self.LayerNorm_1(residual_BSC)
    y_BSC, channel_hidden_BSF = self.channel_mixing(channel_norm_BSC, keys[2])
    out_BSC = residual_BSC + self._stochastic_depth(y_BSC, keys[3])
    inside = collections.OrderedDict()
    inside['token_mixing/norm'] = token_norm_BSC
    inside['token_mixing/hidden'] = token_hidden_BCT
    inside['token_mixing/residual'] = residual_BSC
    inside['channel_mixing/norm'] = channel_norm_BSC
    inside['channel_mixing/hidden'] = channel_hidden_BSF
    return out_BSC, inside

  def _stochastic_depth(self, branch_BSC, key):
    if key is None or not self.skip_rate:
      return branch_BSC
    # A kept branch is not divided by its probability: so the authors trained.
    keep_B11 = jax.random.bernoulli(key, 1 - self.skip_rate, (branch_BSC.shape[0], 1, 1))
    return jnp.where(keep_B11, branch_BSC, 0)


class Mixer(nnx.Module):
  """The whole network. Its attributes carry the names of the published weight files."""

  def __init__(self, config: MixerConfig, rngs: nnx.Rngs):
    patch = (config.patch_size, config.patch_size)
    self.stem = nnx.Conv(
      3, config.hidden_dim, patch, strides=patch, padding='VALID', dtype=config.dtype, rngs=rngs
    )
    for i in range(config.num_blocks):
      setattr(self, f'MixerBlock_{i}', MixerBlock(config, i, rngs))
    self.pre_head_layer_norm = _layer_norm(config, rngs)
    self.head = nnx.Linear(
      config.hidden_dim,
      config.num_classes,
      kernel_init=nnx.initializers.zeros_init(),
      bias_init=nnx.initializers.constant(config.head_bias),
      dtype=jnp.float32,
      rngs=rngs,
    )
    self.num_blocks = config.num_blocks
    self.remat = config.remat

  def __call__(self, images, key):
    """(B, H, W, 3) -> (B, N) float32 logits and the dict of `features`. Trains iff key."""
    x_BSC = self.stem(images)
    x_BSC = x_BSC.reshape(x_BSC.shape[0], -1, x_BSC.shape[-1])  # tokens in raster order
    seen = collections.OrderedDict(stem=x_BSC)  # a plain dict would leave jit sorted by name
    for i in range(self.num_blocks):
      block = getattr(self, f'MixerBlock_{i}')
      block_key = None if key is None else jax.random.fold_in(key, i)
      x_BSC, inside = (jax.checkpoint(block) if self.remat else block)(x_BSC, block_key)
      seen.update((f'block_{i}/{name}', value) for name, value in inside.items())
      seen[f'block_{i}'] = x_BSC
    x_BSC = self.pre_head_layer_norm(x_BSC)
    seen['pre_logits'] = x_BSC.mean(axis=1, dtype=jnp.float32)
    seen['logits'] = self.head(seen['pre_logits'])
    return seen['logits'], seen


def init(config: MixerConfig, key: jax.Array) -> dict:
  """Parameters by the modules' own initialisers and Flax's own sequence of keys."""
  return nnx.to_pure_dict(nnx.state(Mixer(config, nnx.Rngs(params=key)), nnx.Param))


def logits(config: MixerConfig, params: dict, images, key=None) -> jax.Array:
  """(B, H, W, 3) -> (B, N)."""
  network = Mixer(config, nnx.Rngs(0))
  state = nnx.state(network, nnx.Param)
  nnx.replace_by_pure_dict(state, params)
  nnx.update(network, state)
  return network(images, key)[0]
