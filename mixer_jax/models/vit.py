"""Vision Transformer (Dosovitskiy et al. 2021, arXiv 2010.11929): images, params -> logits.

The sizes S and Ti and the dropout of the smaller models are those of Steiner et al. 2021
(AugReg, arXiv 2106.10270).

Names of shapes: B images, H and W pixels, S tokens with the class token where there is one,
C channels (`hidden_dim`), N classes, P side of a patch, h heads, d channels of a head, F width of
the MLP.
"""

import collections
import dataclasses
import functools
import logging
import math

import jax
import jax.numpy as jnp
from flax import linen

from mixer_jax.errors import UserError
from mixer_jax.models import layers, validation
from mixer_jax.models.files import Found
from mixer_jax.models.parameters import Param, head_bias, ones, zeros
from mixer_jax.models.vit_changes import grow, keep_blocks, match_permutation, without_head
from mixer_jax.models.vit_files import LAYOUTS
from mixer_jax.models.vit_inspection import (
  attention_weights,
  position_embeddings,
  sincos2d,
  stem_kernel,
)
from mixer_jax.models.vit_published import PUBLISHED, named_file

log = logging.getLogger(__name__)

__all__ = [
  'LAYOUTS',
  'PUBLISHED',
  'VARIANTS',
  'ViTConfig',
  'attention_weights',
  'grow',
  'keep_blocks',
  'match_permutation',
  'named_file',
  'position_embeddings',
  'stem_kernel',
  'without_head',
]

NAME = 'ViT'
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


def _attention_in(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Glorot-uniform values of (C, heads · channels of a head)."""
  del config
  matrix = (shape[0], shape[1] * shape[2])
  return linen.initializers.xavier_uniform()(key, matrix, jnp.float32).reshape(shape)


def _attention_out(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Glorot-uniform values of (heads · channels of a head, C)."""
  del config
  matrix = (shape[0] * shape[1], shape[2])
  return linen.initializers.xavier_uniform()(key, matrix, jnp.float32).reshape(shape)


def _glorot(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Glorot-uniform values."""
  del config
  return linen.initializers.xavier_uniform()(key, shape, jnp.float32)


def _positions(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Normal values of standard deviation .02."""
  del config
  return 0.02 * jax.random.normal(key, shape, jnp.float32)


def _near_zero(config, key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
  """Normal values of standard deviation 1e-6."""
  del config
  return 1e-6 * jax.random.normal(key, shape, jnp.float32)


def _attention(prefix: str, width: str, heads: str, channels: str) -> dict[str, Param]:
  """Rows of a multi-head attention; its arguments are letters of axes."""
  rows = {}
  for part in ('query', 'key', 'value'):
    rows[f'{prefix}/{part}/kernel'] = Param(width + heads + channels, _attention_in, decay=True)
    rows[f'{prefix}/{part}/bias'] = Param(heads + channels, zeros)
  rows[f'{prefix}/out/kernel'] = Param(heads + channels + width, _attention_out, decay=True)
  rows[f'{prefix}/out/bias'] = Param(width, zeros)
  return rows


def _layer_norm(prefix: str, width: str) -> dict[str, Param]:
  return {f'{prefix}/scale': Param(width, ones), f'{prefix}/bias': Param(width, zeros)}


def _mlp_rows(prefix: str, width: str, hidden: str) -> dict[str, Param]:
  return {
    f'{prefix}/Dense_0/kernel': Param(width + hidden, _glorot, decay=True),
    f'{prefix}/Dense_0/bias': Param(hidden, _near_zero),
    f'{prefix}/Dense_1/kernel': Param(hidden + width, _glorot, decay=True),
    f'{prefix}/Dense_1/bias': Param(width, _near_zero),
  }


_BLOCK = 'Transformer/encoderblock_*'

PARAMETERS = {
  'embedding/kernel': Param('PP3C', decay=True),
  'embedding/bias': Param('C', zeros),
  'cls': Param('1TC', zeros),
  'Transformer/posembed_input/pos_embedding': Param('1SC', _positions),
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

_GELU_APPROXIMATE = {'tanh': True, 'erf': False}
_POOLINGS = ('token', 'gap', 'map')
_POSITIONS = ('learned', 'sincos2d')


@dataclasses.dataclass(frozen=True)
class ViTConfig:
  """Fields of a ViT. Hashable, so that jit takes it as a static argument.

  Attributes:
    patch_size: side of a square patch, pixels (P).
    num_blocks: number of encoder blocks.
    hidden_dim: channels of a token (C).
    mlp_dim: width of each MLP (F).
    num_heads: attention heads; a divisor of `hidden_dim`.
    image_size: side of the square input image, pixels; a multiple of `patch_size`.
    num_classes: outputs of the linear head (N).
    pooling: what the head sees: 'token', a class token; 'gap', the mean over tokens; or
      'map', a learned probe that attends to the tokens (Zhai et al. 2022, arXiv 2106.04560).
    position: 'learned' position embeddings, or 'sincos2d', fixed sines and cosines
      (Beyer et al. 2022, arXiv 2205.01580).
    representation_size: width of a layer with tanh before the head, as the files of
      ImageNet-21k of the ViT paper have it; 0: none.
    gelu: 'tanh', the approximation the published weights were trained with, or
      'erf', the exact form that timm computes.
    input_range: '[-1, 1]' or '[0, 1]', to which the pixels' 0..255 is mapped.
    dtype: dtype of activations and matrix multiplies. Parameters, LayerNorm's
      arithmetic, the softmax of attention and the head stay float32.
    stochastic_depth: probability of skipping the last block's branches in training;
      it grows linearly from 0 at the first block. A branch that is kept is not rescaled.
    dropout: probability of dropping an activation in training: after the positions,
      attention and both layers of each MLP (ViT paper, Appendix B.1).
    head_bias: initial value of the head's bias.
    remat: recompute each block in the backward pass instead of keeping its activations.
    family: 'vit', so that a stored config names its family.

  Raises:
    UserError: a field of the wrong type or out of range.
  """

  patch_size: int
  num_blocks: int
  hidden_dim: int
  mlp_dim: int
  num_heads: int
  image_size: int = 224
  num_classes: int = 1000
  pooling: str = 'token'
  position: str = 'learned'
  representation_size: int = dataclasses.field(default=0, metadata={'at_least': 0})
  gelu: str = 'tanh'
  input_range: str = '[-1, 1]'
  dtype: str = 'float32'
  stochastic_depth: float = 0.0
  dropout: float = 0.0
  head_bias: float = 0.0
  remat: bool = False
  family: str = dataclasses.field(default='vit', repr=False)

  def __post_init__(self):
    validation.check(self)
    validation.check_depth(self)
    validation.check_patches(self)
    if self.hidden_dim % self.num_heads:
      near = [n for n in range(1, self.hidden_dim + 1) if self.hidden_dim % n == 0]
      near.sort(key=lambda n: (abs(n - self.num_heads), n))
      raise UserError(
        f'model.hidden_dim {self.hidden_dim} cannot be shared by model.num_heads='
        f'{self.num_heads}: take {" or ".join(map(str, sorted(near[:2])))} heads'
      )
    validation.check_choice(self, 'pooling', _POOLINGS)
    validation.check_choice(self, 'position', _POSITIONS)
    validation.check_choice(self, 'gelu', tuple(_GELU_APPROXIMATE))
    validation.check_rates(self, ('stochastic_depth', 'dropout'))
    if self.position == 'sincos2d' and (self.hidden_dim % 4 or self.hidden_dim < 8):
      raise UserError(
        f"model.position='sincos2d' needs a model.hidden_dim that is a multiple of 4 and at least "
        f'8, not {self.hidden_dim}'
      )

  @property
  def num_patches(self) -> int:
    """Number of patches of an image."""
    return (self.image_size // self.patch_size) ** 2

  @property
  def num_class_tokens(self) -> int:
    """1 if there is a class token, otherwise 0."""
    return int(self.pooling == 'token')

  @property
  def num_tokens(self) -> int:
    """Number of tokens, with the class token (S)."""
    return self.num_patches + self.num_class_tokens

  @property
  def num_positions(self) -> int:
    """Number of learned position embeddings."""
    return self.num_tokens if self.position == 'learned' else 0

  @property
  def head_dim(self) -> int:
    """Channels of each attention head (d)."""
    return self.hidden_dim // self.num_heads

  @property
  def pre_logits_dim(self) -> int:
    """Number of features that the head sees."""
    return self.representation_size or self.hidden_dim

  @property
  def num_probes(self) -> int:
    """1 if the head pools by attention, otherwise 0, as are the four sizes below."""
    return int(self.pooling == 'map')

  @property
  def pooling_dim(self) -> int:
    """Channels of attention pooling."""
    return self.num_probes * self.hidden_dim

  @property
  def pooling_heads(self) -> int:
    """Heads of attention pooling."""
    return self.num_probes * self.num_heads

  @property
  def pooling_head_dim(self) -> int:
    """Channels of each head of attention pooling."""
    return self.num_probes * self.head_dim

  @property
  def pooling_mlp_dim(self) -> int:
    """Width of the MLP of attention pooling."""
    return self.num_probes * self.mlp_dim


Config = ViTConfig

VARIANTS = {
  'ViT-Ti/16': ViTConfig(16, 12, 192, 768, 3),
  'ViT-S/32': ViTConfig(32, 12, 384, 1536, 6),
  'ViT-S/16': ViTConfig(16, 12, 384, 1536, 6),
  'ViT-B/32': ViTConfig(32, 12, 768, 3072, 12),
  'ViT-B/16': ViTConfig(16, 12, 768, 3072, 12),
  'ViT-B/8': ViTConfig(8, 12, 768, 3072, 12),
  'ViT-L/32': ViTConfig(32, 24, 1024, 4096, 16),
  'ViT-L/16': ViTConfig(16, 24, 1024, 4096, 16),
  'ViT-H/14': ViTConfig(14, 32, 1280, 5120, 16),
}
"""Table 1 of the ViT paper and Table 2 of AugReg's, with a class token and 1000 classes, 224 px."""

COLUMNS = {
  'blocks': 'num_blocks',
  'patch': 'patch_size',
  'tokens': 'num_tokens',
  'channels': 'hidden_dim',
  'heads': 'num_heads',
  'MLP': 'mlp_dim',
}


def variant_of(config: ViTConfig) -> str:
  """'ViT-B/16'; 'ViT-B/16 at 384 px'; 'ViT of 8 blocks, width 64', of any other sizes."""
  name = base_variant(config)
  if not name:
    return f'ViT of {config.num_blocks} blocks, width {config.hidden_dim}'
  is_same = config.image_size == VARIANTS[name].image_size
  return name if is_same else f'{name} at {config.image_size} px'


def base_variant(config: ViTConfig) -> str:
  """Name of the variant that has these sizes, of whatever images and pooling; '' if none has."""
  sizes = lambda c: (c.patch_size, c.num_blocks, c.hidden_dim, c.mlp_dim, c.num_heads)
  names = (name for name, variant in VARIANTS.items() if sizes(variant) == sizes(config))
  return next(names, '')


def activation(config: ViTConfig) -> str:
  """Name of the nonlinearity."""
  return f'gelu {config.gelu}'


def is_stochastic(config: ViTConfig) -> bool:
  """Return True if the forward pass of training draws random numbers."""
  return bool(config.stochastic_depth or config.dropout)


_HEADS = {variant.hidden_dim: variant.num_heads for variant in VARIANTS.values()}
"""Channels of the published ViTs -> heads, which files of timm do not tell."""


def from_file(found: Found) -> ViTConfig:
  """Return the config of a weights file.

  Raises:
    UserError: there is no such ViT, or the file does not tell how many heads it has.
  """
  sizes, pooling = found.sizes, _pooling(found)
  make = functools.partial(
    ViTConfig,
    patch_size=sizes['P'],
    num_blocks=found.num_blocks,
    hidden_dim=sizes['C'],
    mlp_dim=sizes['F'],
    num_heads=_heads(found),
    num_classes=sizes['N'],
    pooling=pooling,
    representation_size=sizes.get('R', 0),
  )
  if 'S' not in sizes:  # such a model takes any size
    size = found.number('image_size') or sizes['P'] * max(224 // sizes['P'], 1)
    log.warning(
      'the file has no position embeddings: they are taken as fixed (sincos2d), at %d px', size
    )
    return make(position='sincos2d', image_size=size)
  side = _side(sizes['S'], pooling == 'token')
  return make(image_size=sizes['P'] * side)


def _pooling(found: Found) -> str:
  if 'cls' in found.shapes:
    return 'token'
  return 'map' if any(name.startswith('MAPHead_0/') for name in found.shapes) else 'gap'


def _heads(found: Found) -> int:
  channels = found.sizes['C']
  heads = found.sizes.get('H') or found.number('num_heads')
  heads = _HEADS.get(channels) if heads is None else heads
  if heads is None:
    raise UserError(
      f'the file does not tell how many heads share its {channels} channels: name them, as '
      'num_heads=… of `load` or --num-heads=…; `convert` keeps them for commands without this flag'
    )
  return heads


def _side(positions: int, has_class_token: bool) -> int:
  """Patches per side of the image; the class token may have a position of its own."""
  for rows in (positions - 1, positions) if has_class_token else (positions,):
    side = math.isqrt(max(rows, 0))
    if side and side**2 == rows:
      return side
  extra = ' (one may be of the class token)' if has_class_token else ''
  raise UserError(f'{positions} position embeddings{extra} do not fill a square image')


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
    block = functools.partial(_block, config, skip_rate(config, i))
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


def skip_rate(config: ViTConfig, block: int) -> float:
  """Probability of skipping each branch of a block, linear in depth."""
  return config.stochastic_depth * block / max(config.num_blocks - 1, 1)


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
  logits_BhST = jnp.einsum(
    'bhsd,bhtd->bhst', query_BhSd, key_BhSd, preferred_element_type=jnp.float32
  )
  weights_BhST = jax.nn.softmax(logits_BhST / math.sqrt(config.head_dim))
  mixed_BhSd = jnp.einsum('bhst,bhtd->bhsd', weights_BhST.astype(config.dtype), value_BhSd)
  out_BSC = layers.join_heads(params['out'], mixed_BhSd, config.dtype)
  named = {'query': query_BhSd, 'key': key_BhSd, 'value': value_BhSd}
  return out_BSC, {name: x.swapaxes(1, 2) for name, x in named.items()}


def _mlp(config: ViTConfig, params: dict, x, keys):
  """Dense, GELU, Dense over the last axis: the output and the hidden activation."""
  approximate = _GELU_APPROXIMATE[config.gelu]
  hidden = jax.nn.gelu(layers.dense(params['Dense_0'], x, config.dtype), approximate=approximate)
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
