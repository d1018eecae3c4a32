"""MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601): images, params -> logits.

Names of shapes: B images, H and W pixels, S tokens, C channels (`hidden_dim`),
N classes, T width of the token MLP (the paper's D_S), F width of the channel
MLP (the paper's D_C).
"""

import collections
import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx

from mixer_jax.errors import UserError
from mixer_jax.models import images, parameters, validation

_GELU_APPROXIMATE = {'tanh': True, 'erf': False}

ARCHITECTURE = ('patch_size', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim')
"""Fields that are settled by the weights."""


@dataclasses.dataclass(frozen=True)
class MixerConfig:
  """Everything that decides what a Mixer computes. Hashable, so jit takes it static.

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
    input_range: '[-1, 1]' or '[0, 1]', what the pixels' 0..255 is mapped to; the
      published weights take the first, but for those of miil.
    dtype: dtype of activations and matrix multiplies. Parameters, what LayerNorm
      computes and the head stay float32.
    stochastic_depth: probability to skip the last block's MLPs while training;
      it grows linearly from 0 at the first block (section 3, Appendix B).
    dropout: probability to drop an activation behind each GELU while training.
    head_bias: initial value of the head's bias (-6.9 in the authors' ImageNet
      recipe with sigmoid cross-entropy).
    remat: recompute each block in the backward pass instead of keeping its
      activations: less memory, about a third more FLOPs.
    family: 'mixer': how a config that is written down tells what it is of.

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
    if self.image_size % self.patch_size:
      low = self.image_size // self.patch_size * self.patch_size
      near = ' or '.join(str(size) for size in (low, low + self.patch_size) if size)
      raise UserError(
        f'model.image_size {self.image_size} is not a multiple of model.patch_size '
        f'{self.patch_size}: take {near}'
      )
    if self.gelu not in _GELU_APPROXIMATE:
      raise UserError(f"model.gelu must be 'tanh' or 'erf', not {self.gelu!r}")
    for name in ('stochastic_depth', 'dropout'):
      if not 0 <= getattr(self, name) < 1:
        raise UserError(f'model.{name} must be in [0, 1), not {getattr(self, name)!r}')

  @property
  def num_tokens(self) -> int:
    """Patches of an image (S)."""
    return (self.image_size // self.patch_size) ** 2


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


def variant_of(config: MixerConfig) -> str:
  """'B/16'; 'B/16 grown to 448 px'; 'Mixer of 8 blocks, width 64', of any other sizes."""
  body = lambda c: (c.num_blocks, parameters.sizes(c) | {'N': 0})
  for name, variant in VARIANTS.items():
    factor = max(config.image_size // variant.image_size, 1)
    grown = dataclasses.replace(
      variant,
      image_size=variant.image_size * factor,
      tokens_mlp_dim=variant.tokens_mlp_dim * factor**2,
    )
    if body(grown) == body(config):
      return name if factor == 1 else f'{name} grown to {config.image_size} px'
  return f'Mixer of {config.num_blocks} blocks, width {config.hidden_dim}'


class Mlp(nnx.Module):
  """Dense, GELU, Dense over the last axis; returns the output and the hidden activation."""

  def __init__(self, dim: int, mlp_dim: int, config: MixerConfig, rngs: nnx.Rngs):
    self.Dense_0 = nnx.Linear(dim, mlp_dim, dtype=config.dtype, rngs=rngs)
    self.Dense_1 = nnx.Linear(mlp_dim, dim, dtype=config.dtype, rngs=rngs)
    self.approximate = _GELU_APPROXIMATE[config.gelu]
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


@functools.lru_cache(maxsize=64)
def _abstract(config: MixerConfig):
  """The module's structure without arrays: graph definition and a state of shapes."""
  return nnx.split(nnx.eval_shape(lambda: Mixer(config, nnx.Rngs(0))))


def shapes(config: MixerConfig) -> dict:
  """The tree of `init(config, key)` with a `jax.ShapeDtypeStruct` in place of each array."""
  return parameters.unflatten(
    {
      name: jax.ShapeDtypeStruct(shape, jnp.float32)
      for name, shape in parameters.expected(config).items()
    }
  )


@functools.partial(jax.jit, static_argnums=0)
def init(config: MixerConfig, key: jax.Array) -> dict:
  """Fresh float32 parameters, a nested dict under the names of the published files.

  LeCun-normal kernels, zero biases, a zero head kernel. `key` is a `jax.random.key`.
  """
  return nnx.to_pure_dict(nnx.state(Mixer(config, nnx.Rngs(params=key)), nnx.Param))


def activation(config: MixerConfig) -> str:
  """The nonlinearity in words."""
  return f'gelu {config.gelu}'


def is_stochastic(config: MixerConfig) -> bool:
  """Whether training draws at random in the forward pass."""
  return bool(config.stochastic_depth or config.dropout)


def run(config: MixerConfig, params: dict, pixels, key=None):
  """Logits (B, N) and all `features` of images; stochastic (training) iff `key` is given."""
  floats = images.as_floats(config, pixels)
  parameters.check(config, parameters.expected(config), params)
  graph, abstract = _abstract(config)
  # A copy of the abstract state: the cached one must never hold a tracer.
  state = jax.tree.map(lambda leaf: leaf, abstract)
  nnx.replace_by_pure_dict(state, params)
  return nnx.merge(graph, state)(floats, key)


def forward_flops(config: MixerConfig) -> int:
  """Floating-point operations of one image's forward pass, 2 per multiply-add.

  Matrix multiplies only, the field's convention for MFU. XLA's count, which adds
  LayerNorm, GELU and skips, is at most 2 % higher for the paper's variants.
  """
  s, c = config.num_tokens, config.hidden_dim
  block = 2 * s * c * config.tokens_mlp_dim + 2 * s * c * config.channels_mlp_dim
  stem = s * config.patch_size**2 * 3 * c
  return 2 * (stem + config.num_blocks * block + c * config.num_classes)
