"""Shardings that follow from the tables of the families, against rules on paths."""

import dataclasses
import re

import jax
import optax
import pytest
from jax.sharding import PartitionSpec as P

from mixer_jax import models
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training.step import make_state

# Exactly one matches the end of a leaf's path.
_VIT = '(Transformer/encoderblock_[0-9]+/|MAPHead_0/)'
RULES = (
  # The rules of the first release.
  (r'(token|channel)_mixing/Dense_0/kernel$', P('fsdp', 'model')),
  (r'(token|channel)_mixing/Dense_0/bias$', P('model')),
  (r'(token|channel)_mixing/Dense_1/kernel$', P('model', 'fsdp')),
  (r'(token|channel)_mixing/Dense_1/bias$', P()),
  (r'stem/kernel$', P(None, None, None, 'fsdp')),
  (r'head/kernel$', P('fsdp')),
  (r'(stem|head)/bias$', P()),
  (r'(LayerNorm_[01]|pre_head_layer_norm)/(scale|bias)$', P()),
  (r'(Conv_[012]|projection)/kernel$', P(None, None, None, 'fsdp')),
  (r'(GroupNorm_[012]|pre_head_group_norm)/(scale|bias)$', P()),
  (r'(^|/)(step|count)$', P()),
  # A ViT: heads and the width of the MLP by `model`, channels by `fsdp`.
  (r'embedding/kernel$', P(None, None, None, 'fsdp')),
  (r'(^|/)cls$', P(None, None, 'fsdp')),
  (r'posembed_input/pos_embedding$', P(None, None, 'fsdp')),
  (r'MAPHead_0/probe$', P(None, None, 'fsdp')),
  (rf'{_VIT}MultiHeadDotProductAttention_[01]/(query|key|value)/kernel$', P('fsdp', 'model')),
  (rf'{_VIT}MultiHeadDotProductAttention_[01]/(query|key|value)/bias$', P('model')),
  (rf'{_VIT}MultiHeadDotProductAttention_[01]/out/kernel$', P('model', None, 'fsdp')),
  (rf'{_VIT}MlpBlock_[03]/Dense_0/kernel$', P('fsdp', 'model')),
  (rf'{_VIT}MlpBlock_[03]/Dense_0/bias$', P('model')),
  (rf'{_VIT}MlpBlock_[03]/Dense_1/kernel$', P('model', 'fsdp')),
  (rf'{_VIT}(MlpBlock_[03]/Dense_1|MultiHeadDotProductAttention_[01]/out)/bias$', P()),
  (r'(LayerNorm_2|encoder_norm)/(scale|bias)$', P()),
  (r'pre_logits/kernel$', P(None, 'fsdp')),
  (r'(embedding|pre_logits)/bias$', P()),
)

_TI16, _B16 = models.VARIANTS['ViT-Ti/16'], models.VARIANTS['ViT-B/16']
CONFIGS = {
  **models.VARIANTS,
  'ResNet': models.ResNetConfig(stages='1,2', width=0.125, stem='cifar', groups=4, image_size=16),
  'gap': dataclasses.replace(_B16, pooling='gap', position='sincos2d'),
  'map': dataclasses.replace(_B16, pooling='map', representation_size=768),
  'Ti map': dataclasses.replace(_TI16, pooling='map'),  # of 3 heads
}


def by_rules(mesh, name: str, shape: tuple[int, ...]) -> P:
  """The spec of the one rule, on axes that the mesh divides."""
  (spec,) = (spec for pattern, spec in RULES if re.search(pattern, name))
  fits = zip(spec, shape, strict=False)
  return P(*(axis if axis and dim % mesh.shape[axis] == 0 else None for axis, dim in fits))


@pytest.mark.parametrize('sizes', [(2, 2, 2), (1, 4, 2), (1, 1, 8)])
@pytest.mark.parametrize('name', CONFIGS)
def test_every_leaf_of_a_state_is_sharded_as_by_the_rules(name, sizes):
  config, mesh = CONFIGS[name], meshes.abstract_mesh(8, *sizes)
  optimizer = optax.chain(optax.adamw(1e-3), optax.trace(0.9))
  state = jax.eval_shape(lambda weights: make_state(weights, optimizer), models.shapes(config))
  leaves = flatten(state)
  for known in (config, None):  # with the family named, and recognised
    found = flatten(meshes.shardings(mesh, state, known))
    wanted = {name: by_rules(mesh, name, leaf.shape) for name, leaf in leaves.items()}
    assert {name: sharding.spec for name, sharding in found.items()} == wanted


def test_a_mesh_axis_splits_one_axis_of_an_array():
  mesh = meshes.abstract_mesh(8, 2, 2, 2)
  found = flatten(meshes.shardings(mesh, models.shapes(CONFIGS['BiT-R50x1'])))
  assert found['ResNetBlock_0/Conv_1/kernel'].spec == P(None, None, None, 'fsdp')


def test_heads_that_an_axis_does_not_divide_stay_whole():
  mesh = meshes.abstract_mesh(8, 2, 2, 2)
  found = flatten(meshes.shardings(mesh, models.shapes(_TI16)))
  block = 'Transformer/encoderblock_0'
  query = f'{block}/MultiHeadDotProductAttention_1/query/kernel'
  assert found[query].spec == P('fsdp', None)
  assert found[f'{block}/MlpBlock_3/Dense_0/kernel'].spec == P('fsdp', 'model')
