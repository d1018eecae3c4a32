"""Names and shapes of parameters against the network itself."""

import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from mixer_jax import models
from mixer_jax.models import mixer, parameters
from mixer_jax.models.parameters import flatten, unflatten


@pytest.mark.parametrize(
  'config', [models.VARIANTS['S/8'], models.MixerConfig(4, 3, 16, 8, 32, image_size=16)]
)
def test_names_shapes_and_dtypes_are_those_of_the_network(config):
  network = nnx.eval_shape(lambda: mixer.Mixer(config, nnx.Rngs(0)))
  wanted = flatten(nnx.to_pure_dict(nnx.state(network, nnx.Param)))
  found = flatten(models.shapes(config))
  assert found.keys() == wanted.keys()
  for name, leaf in wanted.items():
    assert (found[name].shape, found[name].dtype) == (leaf.shape, leaf.dtype), name
  assert {n: leaf.shape for n, leaf in found.items()} == parameters.expected(config)


def test_names_are_in_order_of_depth():
  names = list(parameters.letters(11))
  assert names[:2] == ['stem/kernel', 'stem/bias']
  assert names[-1] == 'head/bias'
  blocks = [int(name.split('/')[0][11:]) for name in names if name.startswith('MixerBlock_')]
  assert blocks == sorted(blocks)


def test_sizes_are_those_that_most_arrays_have():
  config = models.VARIANTS['B/32']
  shapes = parameters.expected(config)
  assert parameters.read_sizes(12, shapes) == parameters.sizes(config)
  shapes['stem/bias'] = (5,)
  del shapes['head/kernel']
  assert parameters.read_sizes(12, shapes) == parameters.sizes(config)
  del shapes['head/bias']
  assert 'N' not in parameters.read_sizes(12, shapes)


def test_flatten_and_unflatten_are_inverse():
  flat = {'a/b/c': np.zeros(1), 'a/d': np.ones(2), 'e': np.ones(3)}
  assert jax.tree.map(id, flatten(unflatten(flat))) == jax.tree.map(id, flat)


@pytest.mark.parametrize('name', models.VARIANTS)
def test_a_variant_is_recognised_also_when_grown(name):
  config = models.VARIANTS[name]
  assert models.variant_of(dataclasses.replace(config, num_classes=3, dtype='bfloat16')) == name
  grown = dataclasses.replace(config, image_size=448, tokens_mlp_dim=4 * config.tokens_mlp_dim)
  assert models.variant_of(grown) == f'{name} grown to 448 px'
  other = f'blocks, width {config.hidden_dim}'
  assert models.variant_of(dataclasses.replace(config, num_blocks=7)) == f'Mixer of 7 {other}'
  larger = dataclasses.replace(config, image_size=448)  # and its token MLP as it was
  assert models.variant_of(larger) == f'Mixer of {config.num_blocks} {other}'
