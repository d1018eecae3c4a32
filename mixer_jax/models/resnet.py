"""BiT's ResNet (Kolesnikov et al. 2020, arXiv 1912.11370): images, params -> logits.

ResNet-v2 of bottleneck units, GroupNorm in place of BatchNorm, and convolutions with
standardised weights. The permutation experiment (section 3.4) trains it beside a Mixer.

Names of shapes: B images, H and W pixels or places, C channels, M channels inside a
unit, N classes.
"""

import collections
import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp

from mixer_jax.errors import UserError
from mixer_jax.models import images, parameters, validation

ARCHITECTURE = ('stages', 'width', 'stem', 'groups')
"""Fields that are settled by the weights."""

_CHANNELS = 64  # inside the units of the first stage, at width 1
_EXPANSION = 4  # channels of a unit's output, for each inside
_STEMS = {'imagenet': (7, 2), 'cifar': (3, 1)}  # (side of the kernel, stride)
_CONVOLVED = ('NHWC', 'HWIO', 'NHWC')


@dataclasses.dataclass(frozen=True)
class ResNetConfig:
  """Everything that decides what a ResNet computes. Hashable, so jit takes it static.

  Attributes:
    stages: bottleneck units in each stage; every stage but the first halves the image
      and doubles the channels. '3,4,6,3' is ResNet-50, '3,4,23,3' ResNet-101.
    width: all channels are multiplied by it; BiT's R50x3 has 3.
    stem: 'imagenet', a 7×7 convolution and a max-pool that each halve the image, or
      'cifar', a 3×3 convolution that keeps small images as large as they are.
    groups: of each GroupNorm; they divide the channels. BiT's have 32.
    image_size: side of the square input image, pixels; any size does.
    num_classes: outputs of the linear head (N).
    input_range: '[-1, 1]' or '[0, 1]', what the pixels' 0..255 is mapped to.
    dtype: dtype of activations and convolutions. Parameters, their standardisation,
      GroupNorm statistics and the head stay float32.
    head_bias: initial value of the head's bias.
    remat: recompute each unit in the backward pass instead of keeping its activations.
    family: 'resnet': how a config that is written down tells what it is of.

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
    if not re.fullmatch(r'[1-9]\d*(,[1-9]\d*)*', self.stages, re.ASCII):
      raise UserError(f"model.stages are numbers of units, as in '3,4,6,3', not {self.stages!r}")
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
    """Bottleneck units, of all stages."""
    return sum(map(int, self.stages.split(',')))


@dataclasses.dataclass(frozen=True)
class _Unit:
  """One bottleneck: its channels from, inside and to, and the stride of its 3×3."""

  before: int
  inside: int
  after: int
  stride: int

  @property
  def projects(self) -> bool:
    """Whether its shortcut needs a convolution, to have the shape of its output."""
    return self.stride > 1 or self.before != self.after


def _units(config: ResNetConfig) -> list[_Unit]:
  inside = before = int(_CHANNELS * config.width)
  units = []
  for stage, count in enumerate(map(int, config.stages.split(','))):
    for place in range(count):
      units.append(_Unit(before, inside, _EXPANSION * inside, 2 if stage and not place else 1))
      before = _EXPANSION * inside
    inside *= 2
  return units


def _expected(config: ResNetConfig) -> dict[str, parameters.Shape]:
  """Name -> shape of every parameter, in order of depth."""
  side, _ = _STEMS[config.stem]
  units = _units(config)
  shapes: dict[str, parameters.Shape] = {'stem/kernel': (side, side, 3, units[0].before)}

  def norm(name, channels):
    shapes.update({f'{name}/scale': (channels,), f'{name}/bias': (channels,)})

  for i, unit in enumerate(units):
    block = f'ResNetBlock_{i}'
    norm(f'{block}/GroupNorm_0', unit.before)
    if unit.projects:
      shapes[f'{block}/projection/kernel'] = (1, 1, unit.before, unit.after)
    shapes[f'{block}/Conv_0/kernel'] = (1, 1, unit.before, unit.inside)
    norm(f'{block}/GroupNorm_1', unit.inside)
    shapes[f'{block}/Conv_1/kernel'] = (3, 3, unit.inside, unit.inside)
    norm(f'{block}/GroupNorm_2', unit.inside)
    shapes[f'{block}/Conv_2/kernel'] = (1, 1, unit.inside, unit.after)
  norm('pre_head_group_norm', units[-1].after)
  shapes['head/kernel'] = (units[-1].after, config.num_classes)
  shapes['head/bias'] = (config.num_classes,)
  return shapes


def shapes(config: ResNetConfig) -> dict:
  """The tree of `init(config, key)` with a `jax.ShapeDtypeStruct` in place of each array."""
  return parameters.unflatten(
    {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in _expected(config).items()}
  )


@functools.partial(jax.jit, static_argnums=0)
def init(config: ResNetConfig, key: jax.Array) -> dict:
  """Fresh float32 parameters: LeCun-normal kernels, scales of 1, zero biases, a zero head."""
  kernel, arrays = jax.nn.initializers.lecun_normal(), {}
  for i, (name, shape) in enumerate(_expected(config).items()):
    if name == 'head/bias':
      arrays[name] = jnp.full(shape, config.head_bias, jnp.float32)
    elif name == 'head/kernel' or name.endswith('bias'):
      arrays[name] = jnp.zeros(shape, jnp.float32)
    elif name.endswith('scale'):
      arrays[name] = jnp.ones(shape, jnp.float32)
    else:
      arrays[name] = kernel(jax.random.fold_in(key, i), shape, jnp.float32)
  return parameters.unflatten(arrays)


def variant_of(config: ResNetConfig) -> str:
  """'ResNet-50x1', as BiT counts: convolutions in depth and the head; times the width."""
  name = f'ResNet-{3 * config.num_blocks + 2}x{config.width:g}'
  return name if config.stem == 'imagenet' else f"{name} with CIFAR's stem"


def activation(config: ResNetConfig) -> str:
  """The nonlinearity in words."""
  del config
  return 'relu'


def is_stochastic(config: ResNetConfig) -> bool:
  """Whether training draws at random in the forward pass: a ResNet never does."""
  del config
  return False


def run(config: ResNetConfig, params: dict, pixels, key=None):
  """Logits (B, N) and all `features` of images; nothing in it is random."""
  del key
  x_BHWC = images.as_floats(config, pixels).astype(config.dtype)
  parameters.check(config, _expected(config), params)
  side, stride = _STEMS[config.stem]
  x_BHWC = _convolve(params['stem'], x_BHWC, stride, padding=side // 2)
  if config.stem == 'imagenet':
    x_BHWC = _max_pool(x_BHWC)
  seen = collections.OrderedDict(stem=x_BHWC)  # a plain dict would leave jit sorted by name
  norm = functools.partial(_group_norm, groups=config.groups)
  for i, unit in enumerate(_units(config)):
    bottleneck = functools.partial(_bottleneck, unit=unit, norm=norm)
    bottleneck = jax.checkpoint(bottleneck) if config.remat else bottleneck
    x_BHWC = seen[f'block_{i}'] = bottleneck(params[f'ResNetBlock_{i}'], x_BHWC)
  x_BHWC = jax.nn.relu(norm(params['pre_head_group_norm'], x_BHWC))
  seen['pre_logits'] = x_BHWC.mean(axis=(1, 2), dtype=jnp.float32)
  head = params['head']
  seen['logits'] = seen['pre_logits'] @ head['kernel'] + head['bias']
  return seen['logits'], seen


def _bottleneck(block: dict, x_BHWC, *, unit: _Unit, norm):
  """1×1, 3×3 and 1×1, each behind GroupNorm and ReLU, beside the shortcut."""
  y_BHWC = jax.nn.relu(norm(block['GroupNorm_0'], x_BHWC))
  if unit.projects:  # from behind the norm
    x_BHWC = _convolve(block['projection'], y_BHWC, unit.stride)
  y_BHWM = _convolve(block['Conv_0'], y_BHWC)
  y_BHWM = jax.nn.relu(norm(block['GroupNorm_1'], y_BHWM))
  y_BHWM = _convolve(block['Conv_1'], y_BHWM, unit.stride, padding=1)
  y_BHWM = jax.nn.relu(norm(block['GroupNorm_2'], y_BHWM))
  return x_BHWC + _convolve(block['Conv_2'], y_BHWM)


def _convolve(layer: dict, x_BHWC, stride: int = 1, padding: int = 0):
  """A convolution by the kernel, each of whose outputs is brought to mean 0 and variance 1."""
  kernel = layer['kernel']
  centred = kernel - kernel.mean((0, 1, 2), keepdims=True)
  standardised = centred * jax.lax.rsqrt((centred**2).mean((0, 1, 2), keepdims=True) + 1e-10)
  return jax.lax.conv_general_dilated(
    x_BHWC,
    standardised.astype(x_BHWC.dtype),
    (stride, stride),
    [(padding, padding)] * 2,
    dimension_numbers=_CONVOLVED,
  )


def _group_norm(layer: dict, x_BHWC, *, groups: int):
  """Mean 0 and variance 1 over an image's places and a group of neighbouring channels."""
  x = x_BHWC.astype(jnp.float32).reshape(*x_BHWC.shape[:-1], groups, -1)
  centred = x - x.mean((1, 2, 4), keepdims=True)
  x = centred * jax.lax.rsqrt((centred**2).mean((1, 2, 4), keepdims=True) + 1e-5)
  return (x.reshape(x_BHWC.shape) * layer['scale'] + layer['bias']).astype(x_BHWC.dtype)


def _max_pool(x_BHWC):
  """3×3 at stride 2 of images with a frame of zeros, as BiT's."""
  framed = jnp.pad(x_BHWC, ((0, 0), (1, 1), (1, 1), (0, 0)))
  lowest = jnp.array(-jnp.inf, x_BHWC.dtype)
  return jax.lax.reduce_window(
    framed, lowest, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), padding='VALID'
  )


def forward_flops(config: ResNetConfig) -> int:
  """Floating-point operations of one image's forward pass, 2 per multiply-add.

  Convolutions and the head only, the field's convention for MFU; what a kernel takes
  of the frame around an image counts as the rest.
  """
  _, stride = _STEMS[config.stem]
  halves = lambda size, stride: -(-size // stride)
  size = halves(config.image_size, stride)
  flat = {name: math.prod(shape) for name, shape in _expected(config).items()}
  total = size**2 * flat['stem/kernel']
  if config.stem == 'imagenet':
    size = halves(size, 2)
  for i, unit in enumerate(_units(config)):
    block, after = f'ResNetBlock_{i}', halves(size, unit.stride)
    total += size**2 * flat[f'{block}/Conv_0/kernel']
    for name in ('Conv_1', 'Conv_2', 'projection'):
      total += after**2 * flat.get(f'{block}/{name}/kernel', 0)
    size = after
  return 2 * (total + flat['head/kernel'])
