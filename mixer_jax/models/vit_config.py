"""Fields of a ViT, the sizes that follow from them, and its variants."""

import dataclasses

from mixer_jax.errors import UserError
from mixer_jax.models import layers, validation

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
    validation.check_choice(self, 'gelu', layers.GELUS)
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
