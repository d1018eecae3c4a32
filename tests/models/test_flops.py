"""FLOPs counted in the traced program, against formulas written down from the layers."""

import dataclasses
import math

import pytest

from mixer_jax import models
from mixer_jax.models import ResNetConfig, mixer


def mixer_flops(config) -> int:
  """Matrix multiplies of a Mixer, by hand."""
  s, c = config.num_tokens, config.hidden_dim
  block = 2 * s * c * config.tokens_mlp_dim + 2 * s * c * config.channels_mlp_dim
  stem = s * config.patch_size**2 * 3 * c
  return 2 * (stem + config.num_blocks * block + c * config.num_classes)


def resnet_flops(config: ResNetConfig) -> int:
  """Convolutions of a ResNet and its head, by hand: positions times the size of the kernel."""
  halved = lambda size: -(-size // 2)
  flat = {name: math.prod(shape) for name, shape in models.param_shapes(config).items()}
  size = halved(config.image_size) if config.stem == 'imagenet' else config.image_size
  total = size**2 * flat['stem/kernel']
  size = halved(size) if config.stem == 'imagenet' else size
  block = 0
  for stage, count in enumerate(map(int, config.stages.split(','))):
    for unit in range(count):
      after = halved(size) if stage and not unit else size
      name = f'ResNetBlock_{block}'
      total += size**2 * flat[f'{name}/Conv_0/kernel']
      for layer in ('Conv_1', 'Conv_2', 'projection'):
        total += after**2 * flat.get(f'{name}/{layer}/kernel', 0)
      size, block = after, block + 1
  return 2 * (total + flat['head/kernel'])


@pytest.mark.parametrize('name', mixer.VARIANTS)
def test_a_mixers_flops_are_those_of_the_formula(name):
  config = models.VARIANTS[name]
  assert models.forward_flops(config) == mixer_flops(config)


@pytest.mark.parametrize(
  'config',
  [
    ResNetConfig(),
    ResNetConfig(stages='3,4,23,3', width=3),
    ResNetConfig(stages='1,2', width=0.125, stem='cifar', groups=4, image_size=9),
  ],
  ids=['R50x1', 'R101x3', 'cifar'],
)
def test_a_resnets_flops_are_those_of_the_formula(config):
  assert models.forward_flops(config) == resnet_flops(config)


def test_dtype_and_recomputation_do_not_count():
  config = dataclasses.replace(models.VARIANTS['S/32'], num_blocks=2)
  other = dataclasses.replace(config, dtype='bfloat16', remat=True, stochastic_depth=0.1)
  assert models.forward_flops(other) == models.forward_flops(config)
