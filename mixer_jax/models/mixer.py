"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601): images, params -> logits.

Names of shapes: B images, H and W pixels, S tokens, C channels (`hidden_dim`),
N classes, P side of a patch, T width of the token MLP (the paper's D_S), F width of the channel
MLP (the paper's D_C).
"""

import collections
import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from mixer_jax.errors import UserError
from mixer_jax.models import layers, validation
from mixer_jax.models.files import Found
from mixer_jax.models.mixer_changes import (
  grow,
  keep_blocks,
  match_permutation,
  stem_kernel,
  token_mixing,
)
from mixer_jax.models.mixer_files import LAYOUTS, PUBLISHED
from mixer_jax.models.parameters import Param, head_bias, ones, zeros

__all__ = [
  'LAYOUTS',
  'PUBLISHED',
  'VARIANTS',
  'MixerConfig',
  'grow',
  'keep_blocks',
  'match_permutation',
  'stem_kernel',
  'token_mixing',
]

NAME = 'Mixer'
ARCHITECTURE = ('patch_size', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim')
SUMMARY = ('num_tokens', *ARCHITECTURE[1:], 'gelu')
ARITHMETIC = ('gelu', 'input_range')

SIZES = {
  'P': 'patch_size',
  'S': 'num_tokens',
  'C': 'hidden_dim',
  'T': 'tokens_mlp_dim',
  'F': 'channels_mlp_dim',
  'N': 'num_classes',
}
SPLIT = {'T': 'model', 'F': 'model', 'C': 'fsdp', 'S': 'fsdp'}

PARAMETERS = {
  'stem/kernel': Param('PP3C', decay=True),
  'stem/bias': Param('C', zeros),
  'MixerBlock_*/LayerNorm_0/scale': Param('C', ones),
  'MixerBlock_*/LayerNorm_0/bias': Param('C', zeros),
  'MixerBlock_*/token_mixing/Dense_0/kernel': Param('ST', decay=True),
  'MixerBlock_*/token_mixing/Dense_0/bias': Param('T', zeros),
  'MixerBlock_*/token_mixing/Dense_1/kernel': Param('TS', decay=True),
  'MixerBlock_*/token_mixing/Dense_1/bias': Param('S', zeros),
  'MixerBlock_*/LayerNorm_1/scale': Param('C', ones),
  'MixerBlock_*/LayerNorm_1/bias': Param('C', zeros),
  'MixerBlock_*/channel_mixing/Dense_0/kernel': Param('CF', decay=True),
  'MixerBlock_*/channel_mixing/Dense_0/bias': Param('F', zeros),
  'MixerBlock_*/channel_mixing/Dense_1/kernel': Param('FC', decay=True),
  'MixerBlock_*/channel_mixing/Dense_1/bias': Param('C', zeros),
  'pre_head_layer_norm/scale': Param('C', ones),
  'pre_head_layer_norm/bias': Param('C', zeros),
  'head/kernel': Param('CN', zeros, decay=True),
  'head/bias': Param('N', head_bias),
}
"""Under the names of the published files."""


@dataclasses.dataclass(frozen=True)
class MixerConfig:
  """Fields of a Mixer. Hashable, so that jit takes it as a static argument.

  Attributes:
    patch_size: side of a square patch, pixels (P).
    num_blocks: number of Mixer blocks ("layers" in the paper's Table 1).
    hidden_dim: channels of a token (C).
    tokens_mlp_dim: width of the token-mixing MLP (D_S).
    channels_mlp_dim: width of the channel-mixing MLP (D_C).
    image_size: side of the square input image, pixels; a multiple of `patch_size`.
    num_classes: outputs of the linear head (N).
    gelu: 'tanh', the approximation the published weights were trained with, or
      'erf', the exact form that timm computes.
    input_range: '[-1, 1]' or '[0, 1]', to which the pixels' 0..255 is mapped. The
      published weights take the first, except those of miil.
    dtype: dtype of activations and matrix multiplies. Parameters, LayerNorm's
      arithmetic and the head stay float32.
    stochastic_depth: probability of skipping the last block's MLPs in training;
      it grows linearly from 0 at the first block (section 3, Appendix B).
    dropout: probability of dropping an activation after each GELU in training.
    head_bias: initial value of the head's bias (-6.9 in the authors' ImageNet
      recipe with sigmoid cross-entropy).
    remat: recompute each block in the backward pass instead of keeping its
      activations: less memory, about a third more FLOPs.
    family: 'mixer', so that a stored config names its family.

  Raises:
    UserError: a field of the wrong type or out of range.
  """

  patch_size: int
  num_blocks: int
  hidden_dim: int
  tokens_mlp_dim: int
  channels_mlp_dim: int
  image_size: int = 224
  num_classes: int = 1000
  gelu: str = 'tanh'
  input_range: str = '[-1, 1]'
  dtype: str = 'float32'
  stochastic_depth: float = 0.0
  dropout: float = 0.0
  head_bias: float = 0.0
  remat: bool = False
  family: str = dataclasses.field(default='mixer', repr=False)

  def __post_init__(self):
    validation.check(self)
    validation.check_depth(self)
    validation.check_patches(self)
    validation.check_choice(self, 'gelu', layers.GELUS)
    validation.check_rates(self, ('stochastic_depth', 'dropout'))

  @property
  def num_tokens(self) -> int:
    """Number of patches of an image (S)."""
    return (self.image_size // self.patch_size) ** 2


Config = MixerConfig


def _variant(patch_size, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim):
  return MixerConfig(patch_size, num_blocks, hidden_dim, tokens_mlp_dim, channels_mlp_dim)


VARIANTS = {
  'S/32': _variant(32, 8, 512, 256, 2048),
  'S/16': _variant(16, 8, 512, 256, 2048),
  'S/8': _variant(8, 8, 512, 256, 2048),
  'B/32': _variant(32, 12, 768, 384, 3072),
  'B/16': _variant(16, 12, 768, 384, 3072),
  'L/32': _variant(32, 24, 1024, 512, 4096),
  'L/16': _variant(16, 24, 1024, 512, 4096),
  'H/14': _variant(14, 32, 1280, 640, 5120),
}
"""The paper's Table 1 at 224 px with 1000 classes, and S/8, published as weights only."""


COLUMNS = {
  'blocks': 'num_blocks',
  'patch': 'patch_size',
  'tokens': 'num_tokens',
  'channels': 'hidden_dim',
  'token MLP': 'tokens_mlp_dim',
  'channel MLP': 'channels_mlp_dim',
}


def variant_of(config: MixerConfig) -> str:
  """'B/16'; 'B/16 grown to 448 px'; 'Mixer of 8 blocks, width 64', of any other sizes."""
  name = base_variant(config)
  if not name:
    return f'Mixer of {config.num_blocks} blocks, width {config.hidden_dim}'
  is_grown = config.num_tokens > VARIANTS[name].num_tokens
  return f'{name} grown to {config.image_size} px' if is_grown else name


def base_variant(config: MixerConfig) -> str:
  """Name of the variant that has these sizes, or had them before it was grown; '' if none has."""
  body = lambda c: [getattr(c, name) for name in ('num_tokens', *ARCHITECTURE)]
  for name, variant in VARIANTS.items():
    factor = max(config.image_size // variant.image_size, 1)
    grown = dataclasses.replace(
      variant,
      image_size=variant.image_size * factor,
      tokens_mlp_dim=variant.tokens_mlp_dim * factor**2,
    )
    if body(grown) == body(config):
      return name
  return ''


def activation(config: MixerConfig) -> str:
  """Name of the nonlinearity."""
  return f'gelu {config.gelu}'


def is_stochastic(config: MixerConfig) -> bool:
  """Return True if the forward pass of training draws random numbers."""
  return bool(config.stochastic_depth or config.dropout)


def from_file(found: Found) -> MixerConfig:
  """Return the config of a weights file, from the sizes of its arrays.

  Raises:
    UserError: there is no such Mixer.
  """
  sizes = found.sizes
  side = math.isqrt(sizes['S'])
  if side**2 != sizes['S']:
    raise UserError(f'{sizes["S"]} tokens do not fill a square image')
  return MixerConfig(
    patch_size=sizes['P'],
    num_blocks=found.num_blocks,
    hidden_dim=sizes['C'],
    tokens_mlp_dim=sizes['T'],
    channels_mlp_dim=sizes['F'],
    image_size=sizes['P'] * side,
    num_classes=sizes['N'],
  )


def run(config: MixerConfig, params: dict, images, *, state: dict, train: bool, key):
  """(B, H, W, 3) -> all `features`, and the state as it was; stochastic iff `key` is given."""
  del train
  x_BSC = layers.conv(params['stem'], images, config.dtype, stride=config.patch_size)
  x_BSC = x_BSC.reshape(x_BSC.shape[0], -1, x_BSC.shape[-1])  # tokens in raster order
  features = collections.OrderedDict(stem=x_BSC)  # a plain dict would leave jit sorted by name
  for i in range(config.num_blocks):
    block = functools.partial(_block, config, layers.skip_rate(config, i))
    block = jax.checkpoint(block) if config.remat else block
    block_key = None if key is None else jax.random.fold_in(key, i)
    x_BSC, inside = block(params[f'MixerBlock_{i}'], x_BSC, block_key)
    features.update((f'block_{i}/{name}', value) for name, value in inside.items())
    features[f'block_{i}'] = x_BSC
  x_BSC = layers.layer_norm(params['pre_head_layer_norm'], x_BSC, config.dtype)
  features['pre_logits'] = x_BSC.mean(axis=1, dtype=jnp.float32)
  features['logits'] = layers.dense(params['head'], features['pre_logits'], jnp.float32)
  return features, state


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)  # traced once for equal blocks
def _block(config: MixerConfig, rate: float, params: dict, x_BSC, key):
  """LayerNorm, token MLP, skip; LayerNorm, channel MLP, skip (the paper's equation 1)."""
  keys = [None] * 4 if key is None else jax.random.split(key, 4)
  # A branch that is kept is not divided by its probability: so the authors trained.
  skipped = lambda branch_BSC, key: layers.drop(branch_BSC, rate, key, axes=(1, 2))
  token_norm_BSC = layers.layer_norm(params['LayerNorm_0'], x_BSC, config.dtype)
  y_BCS, token_hidden_BCT = _mlp(
    config, params['token_mixing'], token_norm_BSC.swapaxes(1, 2), keys[0]
  )
  residual_BSC = x_BSC + skipped(y_BCS.swapaxes(1, 2), keys[1])
  channel_norm_BSC = layers.layer_norm(params['LayerNorm_1'], residual_BSC, config.dtype)
  y_BSC, channel_hidden_BSF = _mlp(config, params['channel_mixing'], channel_norm_BSC, keys[2])
  out_BSC = residual_BSC + skipped(y_BSC, keys[3])
  inside = collections.OrderedDict()
  inside['token_mixing/norm'] = token_norm_BSC
  inside['token_mixing/hidden'] = token_hidden_BCT
  inside['token_mixing/residual'] = residual_BSC
  inside['channel_mixing/norm'] = channel_norm_BSC
  inside['channel_mixing/hidden'] = channel_hidden_BSF
  return out_BSC, inside


def _mlp(config: MixerConfig, params: dict, x, key):
  """Dense, GELU, Dense over the last axis: the output and the hidden activation."""
  hidden = layers.gelu(layers.dense(params['Dense_0'], x, config.dtype), config.gelu)
  dropped = layers.dropout(hidden, config.dropout, key)
  return layers.dense(params['Dense_1'], dropped, config.dtype), hidden
