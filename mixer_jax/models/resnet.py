"""BiT's ResNet (Kolesnikov et al. 2020, arXiv 1912.11370): images, params -> logits.

ResNet-v2 of bottleneck units, GroupNorm in place of BatchNorm, and convolutions with
standardised kernels. The permutation experiment (section 3.4) compares it with a Mixer.

Names of shapes: B images, H and W pixels or positions, C channels, N classes, K side of the stem's
kernel, W its channels; in a unit, I channels that come in, M channels inside, O channels that
go out, and Q the same as O where the shortcut has a convolution.
"""

import collections
import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.models import layers, validation
from mixer_jax.models.files import Found
from mixer_jax.models.parameters import Param, head_bias, ones, zeros
from mixer_jax.models.resnet_files import LAYOUTS
from mixer_jax.models.resnet_published import PUBLISHED

__all__ = ['LAYOUTS', 'PUBLISHED', 'VARIANTS', 'ResNetConfig', 'grow']

NAME = 'ResNet'
ARCHITECTURE = ('stages', 'width', 'stem', 'groups')
SUMMARY = ('num_blocks', *ARCHITECTURE)

SIZES = {'K': 'stem_size', 'W': 'stem_channels', 'C': 'channels', 'N': 'num_classes'}
SPLIT = dict.fromkeys('WCMOQ', 'fsdp')

PARAMETERS = {
  'stem/kernel': Param('KK3W', decay=True),
  'ResNetBlock_*/GroupNorm_0/scale': Param('I', ones),
  'ResNetBlock_*/GroupNorm_0/bias': Param('I', zeros),
  'ResNetBlock_*/projection/kernel': Param('11IQ', decay=True),
  'ResNetBlock_*/Conv_0/kernel': Param('11IM', decay=True),
  'ResNetBlock_*/GroupNorm_1/scale': Param('M', ones),
  'ResNetBlock_*/GroupNorm_1/bias': Param('M', zeros),
  'ResNetBlock_*/Conv_1/kernel': Param('33MM', decay=True),
  'ResNetBlock_*/GroupNorm_2/scale': Param('M', ones),
  'ResNetBlock_*/GroupNorm_2/bias': Param('M', zeros),
  'ResNetBlock_*/Conv_2/kernel': Param('11MO', decay=True),
  'pre_head_group_norm/scale': Param('C', ones),
  'pre_head_group_norm/bias': Param('C', zeros),
  'head/kernel': Param('CN', zeros, decay=True),
  'head/bias': Param('N', head_bias),
}

_CHANNELS = 64  # inside the units of the first stage, at width 1
_EXPANSION = 4  # channels that a unit gives out, for each inside
_STEMS = {'imagenet': (7, 2), 'cifar': (3, 1)}  # (side of the kernel, stride)


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
  """Fields of a ResNet. Hashable, so that jit takes it as a static argument.

  Attributes:
    stages: bottleneck units in each stage; every stage but the first halves the image
      and doubles the channels. '3,4,6,3' is ResNet-50, '3,4,23,3' ResNet-101.
    width: all channels are multiplied by it; BiT's R50x3 has 3.
    stem: 'imagenet', a 7×7 convolution and a max-pool that each halve the image, or
      'cifar', a 3×3 convolution that keeps small images as large as they are.
    groups: of each GroupNorm; a divisor of the channels. BiT's have 32.
    image_size: side of the square input image, pixels; any size.
    num_classes: outputs of the linear head (N).
    input_range: '[-1, 1]' or '[0, 1]', to which the pixels' 0..255 is mapped.
    dtype: dtype of activations and convolutions. Parameters, their standardisation,
      GroupNorm statistics and the head stay float32.
    head_bias: initial value of the head's bias.
    remat: recompute each unit in the backward pass instead of keeping its activations.
    family: 'resnet', so that a stored config names its family.

  Raises:
    UserError: a field of the wrong type or out of range.
  """

  stages: str = '3,4,6,3'
  width: float = 1.0
  stem: str = 'imagenet'
  groups: int = 32
  image_size: int = 224
  num_classes: int = 1000
  input_range: str = '[-1, 1]'
  dtype: str = 'float32'
  head_bias: float = 0.0
  remat: bool = False
  family: str = dataclasses.field(default='resnet', repr=False)

  def __post_init__(self):
    validation.check(self)
    if not re.fullmatch(r'[1-9]\d{0,4}(,[1-9]\d{0,4})*', self.stages, re.ASCII):
      raise UserError(f"model.stages are numbers of units, as in '3,4,6,3', not {self.stages!r}")
    validation.check_depth(self)
    if self.stem not in _STEMS:
      raise UserError(f"model.stem must be 'imagenet' or 'cifar', not {self.stem!r}")
    channels = _CHANNELS * self.width
    if channels % self.groups or not channels > 0:
      raise UserError(
        f'model.width {self.width:g} gives {channels:g} channels, which cannot be cut into '
        f'model.groups={self.groups}: take a multiple of {self.groups / _CHANNELS:g}'
      )

  @property
  def num_blocks(self) -> int:
    """Number of bottleneck units of all stages."""
    return sum(map(int, self.stages.split(',')))

  @property
  def stem_size(self) -> int:
    """Side of the stem's kernel, pixels."""
    return _STEMS[self.stem][0]

  @property
  def stem_channels(self) -> int:
    """Channels that the stem gives out."""
    return int(_CHANNELS * self.width)

  @property
  def channels(self) -> int:
    """Channels that the last unit gives out."""
    return _units(self)[-1].after


Config = ResNetConfig


@dataclasses.dataclass(frozen=True)
class _Unit:
  """One bottleneck: channels before, inside and after it, and the stride of its 3×3."""

  before: int
  inside: int
  after: int
  stride: int

  @property
  def projects(self) -> bool:
    """True if its shortcut needs a convolution, to have the shape of its output."""
    return self.stride > 1 or self.before != self.after


@functools.lru_cache(maxsize=64)
def _units(config: ResNetConfig) -> tuple[_Unit, ...]:
  inside = before = config.stem_channels
  units = []
  for stage, count in enumerate(map(int, config.stages.split(','))):
    for place in range(count):
      units.append(_Unit(before, inside, _EXPANSION * inside, 2 if stage and not place else 1))
      before = _EXPANSION * inside
    inside *= 2
  return tuple(units)


def block_sizes(config: ResNetConfig, block: int) -> dict[str, int]:
  """Sizes of the letters of one unit; Q only where its shortcut has a convolution."""
  unit = _units(config)[block]
  sizes = {'I': unit.before, 'M': unit.inside, 'O': unit.after}
  return {**sizes, 'Q': unit.after} if unit.projects else sizes


VARIANTS = {
  f'BiT-R{3 * sum(map(int, stages.split(","))) + 2}x{width}': ResNetConfig(stages, float(width))
  for stages, width in (
    ('3,4,6,3', 1),
    ('3,4,6,3', 2),
    ('3,4,6,3', 3),
    ('3,4,23,3', 1),
    ('3,4,23,3', 3),
    ('3,8,36,3', 1),
    ('3,8,36,3', 2),
    ('3,8,36,3', 4),
    ('3,24,36,3', 3),
  )
}
"""The models of BiT's paper, R152x2, and R50x2, R152x1 and R200x3 of the Mixer's Table 3."""

COLUMNS = {'units': 'stages', 'width': 'width', 'channels': 'channels'}


def variant_of(config: ResNetConfig) -> str:
  """'BiT-R50x1', as BiT counts: convolutions in depth and the head; times the width."""
  depth = f'{3 * config.num_blocks + 2}x{config.width:g}'
  if config.stem == 'imagenet' and config.groups == 32:
    return f'BiT-R{depth}'
  return f'ResNet-{depth}' + ('' if config.stem == 'imagenet' else " with CIFAR's stem")


def _stem_of(side: int) -> str:
  """Name of the stem whose kernel has this side, pixels.

  Raises:
    UserError: there is none.
  """
  for name, (known, _) in _STEMS.items():
    if known == side:
      return name
  known = ' or '.join(f'{size}×{size}' for size, _ in _STEMS.values())
  raise UserError(f'a stem of {side}×{side} pixels: those here have {known}')


def places(config: ResNetConfig) -> list[tuple[int, int]]:
  """Stage and place in it of each unit, from 0 on."""
  counts = map(int, config.stages.split(','))
  return [(stage, place) for stage, count in enumerate(counts) for place in range(count)]


def from_file(found: Found) -> ResNetConfig:
  """Return the config of a weights file; BiT's 32 groups, unless the file stores another number.

  Raises:
    UserError: there is no such ResNet.
  """
  projects = [f'ResNetBlock_{i}/projection/kernel' in found.shapes for i in range(found.num_blocks)]
  if not projects or not projects[0]:
    raise UserError('its first unit has no projection, as those of a ResNet-v2 have')
  starts = [i for i, starts_stage in enumerate(projects) if starts_stage]
  counts = [end - start for start, end in zip(starts, [*starts[1:], found.num_blocks], strict=True)]
  return ResNetConfig(
    stages=','.join(map(str, counts)),
    width=found.sizes['W'] / 64,
    stem=_stem_of(found.sizes['K']),
    num_classes=found.sizes['N'],
    groups=found.number('groups') or 32,
    image_size=found.number('image_size') or 224,
  )


def activation(config: ResNetConfig) -> str:
  """Name of the nonlinearity."""
  del config
  return 'relu'


def grow(config: ResNetConfig, params: dict, image_size: int) -> tuple[ResNetConfig, dict]:
  """Return the same ResNet for images of another size: its parameters fit any."""
  return dataclasses.replace(config, image_size=image_size), params


def stem_kernel(config: ResNetConfig, params: dict) -> np.ndarray:
  """Return the kernel of the stem with mean 0 for each channel, (K, K, 3, W).

  That is what the convolution applies, but for a factor of each channel.
  """
  del config
  kernel = np.asarray(params['stem']['kernel'])
  return kernel - kernel.mean((0, 1, 2))


def run(config: ResNetConfig, params: dict, images, *, state: dict, train: bool, key):
  """(B, H, W, 3) -> all `features`, and the state as it was; nothing in it is random."""
  del train, key
  x_BHWC = images.astype(config.dtype)
  side, stride = _STEMS[config.stem]
  x_BHWC = layers.standardized_conv(
    params['stem'], x_BHWC, config.dtype, stride=stride, padding=side // 2
  )
  if config.stem == 'imagenet':
    x_BHWC = layers.max_pool(x_BHWC, 3, 2, padding=1)  # of a frame of zeros, as BiT's
  features = collections.OrderedDict(stem=x_BHWC)  # a plain dict would leave jit sorted by name
  for i, unit in enumerate(_units(config)):
    bottleneck = functools.partial(_bottleneck, config, unit)
    bottleneck = jax.checkpoint(bottleneck) if config.remat else bottleneck
    x_BHWC = features[f'block_{i}'] = bottleneck(params[f'ResNetBlock_{i}'], x_BHWC)
  x_BHWC = _norm_relu(config, params['pre_head_group_norm'], x_BHWC)
  features['pre_logits'] = x_BHWC.mean(axis=(1, 2), dtype=jnp.float32)
  features['logits'] = layers.dense(params['head'], features['pre_logits'], jnp.float32)
  return features, state


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)  # traced once for equal units
def _bottleneck(config: ResNetConfig, unit: _Unit, params: dict, x_BHWC):
  """1×1, 3×3 and 1×1, each after GroupNorm and ReLU, added to the shortcut."""
  conv = functools.partial(layers.standardized_conv, dtype=config.dtype)
  y_BHWC = _norm_relu(config, params['GroupNorm_0'], x_BHWC)
  if unit.projects:  # from after the norm
    x_BHWC = conv(params['projection'], y_BHWC, stride=unit.stride)
  y_BHWM = conv(params['Conv_0'], y_BHWC)
  y_BHWM = _norm_relu(config, params['GroupNorm_1'], y_BHWM)
  y_BHWM = conv(params['Conv_1'], y_BHWM, stride=unit.stride, padding=1)
  y_BHWM = _norm_relu(config, params['GroupNorm_2'], y_BHWM)
  return x_BHWC + conv(params['Conv_2'], y_BHWM)


def _norm_relu(config: ResNetConfig, params: dict, x_BHWC):
  return jax.nn.relu(layers.group_norm(params, x_BHWC, config.dtype, groups=config.groups))
