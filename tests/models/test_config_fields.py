"""The fields of `config.model` for every family, as the experiments in configs/ use them."""

import dataclasses

import pytest

from configs import common
from mixer_jax import models
from mixer_jax.errors import UserError


def test_another_family_keeps_the_fields_that_both_have():
  config = common.get_config()
  config.model.update(num_classes=7, head_bias=-6.9, input_range='[0, 1]')
  common.use_family(config, 'resnet')
  wanted = models.ResNetConfig(
    num_classes=7, head_bias=-6.9, input_range='[0, 1]', dtype='bfloat16'
  )
  assert models.config_from(config.model) == wanted
  assert config.model.to_dict() == dataclasses.asdict(wanted)


@pytest.mark.parametrize('family', ['mixer', 'resnet'])
def test_a_checkpoint_decides_all_fields_but_those_that_a_run_may_choose(family):
  config = common.get_config()
  common.use_family(config, family)
  common.keep_architecture(config)
  free = {'image_size', 'num_classes', 'head_bias', 'dtype', 'remat'}
  free |= {'stochastic_depth', 'dropout'} if family == 'mixer' else set()
  assert set(config.model) == free


def test_the_arithmetic_of_a_family_is_asked_for():
  mixer, resnet = models.VARIANTS['S/32'], models.ResNetConfig()
  assert models.with_arithmetic(mixer, gelu='erf', dtype='bfloat16').gelu == 'erf'
  assert models.with_arithmetic(resnet, input_range='[0, 1]').input_range == '[0, 1]'
  with pytest.raises(UserError, match='BiT-R50x1 is a ResNet: it has no GELU'):
    models.with_arithmetic(resnet, gelu='erf')
  with pytest.raises(UserError, match='it has no width'):
    models.with_arithmetic(resnet, width='2')


def test_a_capability_is_asked_for():
  mixer, resnet = models.VARIANTS['S/32'], models.ResNetConfig()
  assert models.has_capability(mixer, 'keep_blocks')
  assert not models.has_capability(resnet, 'keep_blocks')
  for name, words in (
    ('keep_blocks', 'a ResNet does not define keep_blocks'),
    ('token_mixing', 'a ResNet mixes no tokens'),
    ('match_permutation', 'a ResNet cannot be matched to permuted images'),
  ):
    with pytest.raises(UserError, match=words):
      models.capability(resnet, name)
