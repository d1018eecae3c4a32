"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): images, params -> logits.

The sizes S and Ti and the dropout of the smaller models are those of Steiner et al. 2021
(AugReg, arXiv 2106.10270).

Names of shapes: B images, H and W pixels, S tokens with the class token where there is one,
C channels (`hidden_dim`), N classes, P side of a patch, h heads, d channels of a head, F width of
the MLP.
"""

import collections
import functools
import math

import jax
import jax.numpy as jnp
from flax import linen

from mixer_jax.models import layers
from mixer_jax.models.parameters import Initializer, Param, head_bias, ones, zeros
from mixer_jax.models.vit_changes import grow, keep_blocks, match_permutation, without_head
from mixer_jax.models.vit_config import (
  COLUMNS,
  VARIANTS,
  ViTConfig,
  activation,
  base_variant,
  is_stochastic,
  variant_of,
)
from mixer_jax.models.vit_files import LAYOUTS, from_file
from mixer_jax.models.vit_inspection import (
  attention_weights,
  position_embeddings,
  sincos2d,
  stem_kernel,
)
from mixer_jax.models.vit_published import PUBLISHED, named_file

__all__ = [
  'COLUMNS',
  'LAYOUTS',
  'PUBLISHED',
  'VARIANTS',
  'ViTConfig',
  'activation',
  'attention_weights',
  'base_variant',
  'from_file',
  'grow',
  'is_stochastic',
  'keep_blocks',
  'match_permutation',
  'named_file',
  'position_embeddings',
  'stem_kernel',
  'variant_of',
  'without_head',
]

NAME = 'ViT'
Config = ViTConfig
ARCHITECTURE = (
  'patch_size',
  'num_blocks',
  'hidden_dim',
  'mlp_dim',
  'num_heads',
  'pooling',
  'position',
  'representation_size',
)
SUMMARY = ('num_tokens', *ARCHITECTURE[1:], 'gelu')
ARITHMETIC = ('gelu', 'input_range')

SIZES = {
  'P': 'patch_size',
  'S': 'num_positions',
  'T': 'num_class_tokens',
  'C': 'hidden_dim',
  'H': 'num_heads',
  'D': 'head_dim',
  'F': 'mlp_dim',
  'R': 'representation_size',
  'E': 'pre_logits_dim',
  'N': 'num_classes',
  # Of attention pooling alone.
  'q': 'num_probes',
  'c': 'pooling_dim',
  'h': 'pooling_heads',
  'd': 'pooling_head_dim',
  'f': 'pooling_mlp_dim',
}
OPTIONAL = 'STRHDqchdf'
SPLIT = {**dict.fromkeys('HFhf', 'model'), **dict.fromkeys('CREc', 'fsdp')}


def _glorot(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Glorot-uniform values of a matrix: the first axis goes in, the others come out."""
  del config
  matrix = (shape[0], math.prod(shape[1:]))
  return linen.initializers.xavier_uniform()(key, matrix, jnp.float32).reshape(shape)


def _glorot_out(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Likewise of (heads, channels of a head, C): the last axis comes out, the others go in."""
  del config
  matrix = (math.prod(shape[:-1]), shape[-1])
  return linen.initializers.xavier_uniform()(key, matrix, jnp.float32).reshape(shape)


def _normal(deviation: float) -> Initializer:
  """Return an initialiser of normal values."""
  return lambda config, key, shape: deviation * jax.random.normal(key, shape, jnp.float32)


def _attention(prefix: str, width: str, heads: str, channels: str) -> dict[str, Param]:
  """Rows of a multi-head attention; its arguments are letters of axes."""
  rows = {}
  for part in ('query', 'key', 'value'):
    rows[f'{prefix}/{part}/kernel'] = Param(width + heads + channels, _glorot, decay=True)
    rows[f'{prefix}/{part}/bias'] = Param(heads + channels, zeros)
  rows[f'{prefix}/out/kernel'] = Param(heads + channels + width, _glorot_out, decay=True)
  rows[f'{prefix}/out/bias'] = Param(width, zeros)
  return rows


def _layer_norm(prefix: str, width: str) -> dict[str, Param]:
  return {f'{prefix}/scale': Param(width, ones), f'{prefix}/bias': Param(width, zeros)}


def _mlp_rows(prefix: str, width: str, hidden: str) -> dict[str, Param]:
  return {
    f'{prefix}/Dense_0/kernel': Param(width + hidden, _glorot, decay=True),
    f'{prefix}/Dense_0/bias': Param(hidden, _normal(1e-6)),
    f'{prefix}/Dense_1/kernel': Param(hidden + width, _glorot, decay=True),
    f'{prefix}/Dense_1/bias': Param(width, _normal(1e-6)),
  }


_BLOCK = 'Transformer/encoderblock_*'

PARAMETERS = {
  'embedding/kernel': Param('PP3C', decay=True),
  'embedding/bias': Param('C', zeros),
  'cls': Param('1TC', zeros),
  'Transformer/posembed_input/pos_embedding': Param('1SC', _normal(0.02)),
  **_layer_norm(f'{_BLOCK}/LayerNorm_0', 'C'),
  **_attention(f'{_BLOCK}/MultiHeadDotProductAttention_1', 'C', 'H', 'D'),
  **_layer_norm(f'{_BLOCK}/LayerNorm_2', 'C'),
  **_mlp_rows(f'{_BLOCK}/MlpBlock_3', 'C', 'F'),
  **_layer_norm('Transformer/encoder_norm', 'C'),
  'MAPHead_0/probe': Param('1qc', _glorot),
  **_attention('MAPHead_0/MultiHeadDotProductAttention_0', 'c', 'h', 'd'),
  **_layer_norm('MAPHead_0/LayerNorm_0', 'c'),
  **_mlp_rows('MAPHead_0/MlpBlock_0', 'c', 'f'),
  'pre_logits/kernel': Param('CR', decay=True),
  'pre_logits/bias': Param('R', zeros),
  'head/kernel': Param('EN', zeros, decay=True),
  'head/bias': Param('N', head_bias),
}
"""Under the names of the published files, in which the children of a block share one count."""


def run(config: ViTConfig, params: dict, images, *, state: dict, train: bool, key):
  """(B, H, W, 3) -> all `features`, and the state as it was; stochastic iff `key` is given."""
  del train
  x_BSC = layers.conv(params['embedding'], images, config.dtype, stride=config.patch_size)
  x_BSC = x_BSC.reshape(x_BSC.shape[0], -1, x_BSC.shape[-1])  # patches in raster order
  features = collections.OrderedDict(stem=x_BSC)  # a plain dict would leave jit sorted by name
  encoder = params['Transformer']
  x_BSC = _with_positions(config, params, x_BSC)
  stem_key = None if key is None else jax.random.fold_in(key, config.num_blocks)
  x_BSC = features['embedded'] = layers.dropout(x_BSC, config.dropout, stem_key)
  for i in range(config.num_blocks):
    block = functools.partial(_block, config, layers.skip_rate(config, i))
    block = jax.checkpoint(block) if config.remat else block
    block_key = None if key is None else jax.random.fold_in(key, i)
    x_BSC, inside = block(encoder[f'encoderblock_{i}'], x_BSC, block_key)
    features.update((f'block_{i}/{name}', value) for name, value in inside.items())
    features[f'block_{i}'] = x_BSC
  x_BSC = layers.layer_norm(encoder['encoder_norm'], x_BSC, config.dtype)
  x_BC = _pooled(config, params, x_BSC).astype(jnp.float32)
  if config.representation_size:
    x_BC = jnp.tanh(layers.dense(params['pre_logits'], x_BC, jnp.float32))
  features['pre_logits'] = x_BC
  features['logits'] = layers.dense(params['head'], x_BC, jnp.float32)
  return features, state


def _with_positions(config: ViTConfig, params: dict, x_BSC):
  """Put the class token before the patches, and add the position of each."""
  if config.position == 'sincos2d':  # which has no row for the class token
    x_BSC = x_BSC + sincos2d(config).astype(config.dtype)
  if config.num_class_tokens:
    cls = params['cls'].astype(config.dtype)
    x_BSC = jnp.concatenate([jnp.broadcast_to(cls, (len(x_BSC), *cls.shape[1:])), x_BSC], axis=1)
  if config.position == 'learned':
    x_BSC = x_BSC + params['Transformer']['posembed_input']['pos_embedding'].astype(config.dtype)
  return x_BSC


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)  # traced once for equal blocks
def _block(config: ViTConfig, rate: float, params: dict, x_BSC, key):
  """LayerNorm, attention, skip; LayerNorm, MLP, skip (the ViT paper's equations 2 and 3)."""
  keys = [None] * 5 if key is None else jax.random.split(key, 5)
  skipped = lambda branch_BSC, key: layers.drop(branch_BSC, rate, key, axes=(1, 2))
  inside = collections.OrderedDict()
  norm_BSC = inside['attention/norm'] = layers.layer_norm(
    params['LayerNorm_0'], x_BSC, config.dtype
  )
  y_BSC, heads = _attend(config, params['MultiHeadDotProductAttention_1'], norm_BSC, norm_BSC)
  inside.update((f'attention/{name}', value) for name, value in heads.items())
  y_BSC = layers.dropout(y_BSC, config.dropout, keys[0])
  x_BSC = inside['attention/residual'] = x_BSC + skipped(y_BSC, keys[1])
  norm_BSC = inside['mlp/norm'] = layers.layer_norm(params['LayerNorm_2'], x_BSC, config.dtype)
  y_BSC, inside['mlp/hidden'] = _mlp(config, params['MlpBlock_3'], norm_BSC, keys[2:4])
  return x_BSC + skipped(y_BSC, keys[4]), inside


def _attend(config: ViTConfig, params: dict, queries_BSC, x_BSC):
  """Attention of tokens to tokens, (B, S, C), and its query, key and value, (B, S, h, d).

  Heads come before tokens, so that the multiplies of a head are of adjacent matrices.
  """
  project = lambda name, x: layers.heads(params[name], x, config.dtype)
  query_BhSd, key_BhSd = project('query', queries_BSC), project('key', x_BSC)
  value_BhSd = project('value', x_BSC)
  weights_BhST = layers.attention_weights(query_BhSd, key_BhSd)
  mixed_BhSd = jnp.einsum('bhst,bhtd->bhsd', weights_BhST.astype(config.dtype), value_BhSd)
  out_BSC = layers.join_heads(params['out'], mixed_BhSd, config.dtype)
  named = {'query': query_BhSd, 'key': key_BhSd, 'value': value_BhSd}
  return out_BSC, {name: x.swapaxes(1, 2) for name, x in named.items()}


def _mlp(config: ViTConfig, params: dict, x, keys):
  """Dense, GELU, Dense over the last axis: the output and the hidden activation."""
  hidden = layers.gelu(layers.dense(params['Dense_0'], x, config.dtype), config.gelu)
  dropped = layers.dropout(hidden, config.dropout, keys[0])
  out = layers.dense(params['Dense_1'], dropped, config.dtype)
  return layers.dropout(out, config.dropout, keys[1]), hidden


def _pooled(config: ViTConfig, params: dict, x_BSC):
  """(B, S, C) -> (B, C), as `config.pooling` says."""
  if config.pooling == 'token':
    return x_BSC[:, 0]
  if config.pooling == 'gap':
    return x_BSC.mean(axis=1, dtype=jnp.float32)
  params = params['MAPHead_0']
  probe = params['probe'].astype(config.dtype)
  probe = jnp.broadcast_to(probe, (len(x_BSC), *probe.shape[1:]))
  x_BSC, _ = _attend(config, params['MultiHeadDotProductAttention_0'], probe, x_BSC)
  y_BSC = layers.layer_norm(params['LayerNorm_0'], x_BSC, config.dtype)
  return (x_BSC + _mlp(config, params['MlpBlock_0'], y_BSC, [None] * 2)[0])[:, 0]
