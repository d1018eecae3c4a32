"""The table of a family's parameters, and what follows from it, against independent sources."""

import dataclasses

import jax
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.models import family, mixer, parameters
from mixer_jax.models.parameters import flatten, unflatten
from tests.helpers import nnx_mixer

LETTERS = mixer.SIZES


def sizes_of(config) -> dict[str, int]:
  return {letter: getattr(config, field) for letter, field in LETTERS.items()}


@pytest.mark.parametrize(
  'config', [models.VARIANTS['S/8'], models.MixerConfig(4, 3, 16, 8, 32, image_size=16)]
)
def test_names_shapes_and_dtypes_are_those_of_the_network(config):
  wanted = flatten(jax.eval_shape(lambda key: nnx_mixer.init(config, key), jax.random.key(0)))
  found = flatten(models.shapes(config))
  assert found.keys() == wanted.keys()
  for name, leaf in wanted.items():
    assert (found[name].shape, found[name].dtype) == (leaf.shape, leaf.dtype), name
  assert {n: leaf.shape for n, leaf in found.items()} == models.param_shapes(config)


def test_initial_values_are_those_of_the_network_to_the_bit():
  config = models.MixerConfig(4, 2, 16, 8, 32, image_size=16, num_classes=5, head_bias=-6.9)
  key = jax.random.key(3)
  wanted, found = (flatten(init(config, key)) for init in (nnx_mixer.init, models.init))
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize('remat', [False, True])
def test_logits_are_those_of_the_network_also_in_training(remat):
  config = models.MixerConfig(
    *(4, 2, 16, 8, 32),
    image_size=16,
    num_classes=5,
    stochastic_depth=0.3,
    dropout=0.2,
    remat=remat,
  )
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
  params = jax.tree.map(draw, models.shapes(config))
  images = rng.uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
  for key in (None, jax.random.key(1)):
    found = models.apply(config, params, images, train=key is not None, key=key)
    wanted = nnx_mixer.logits(config, params, images, key)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-5)


def test_names_are_in_order_of_depth():
  names = list(parameters.rows(mixer.PARAMETERS, 11))
  assert names[:2] == ['stem/kernel', 'stem/bias']
  assert names[-1] == 'head/bias'
  blocks = [int(name.split('/')[0][11:]) for name in names if name.startswith('MixerBlock_')]
  assert blocks == sorted(blocks)


def test_sizes_are_those_that_most_arrays_have():
  config = models.VARIANTS['B/32']
  shapes = models.param_shapes(config)
  read = lambda: parameters.read_sizes(mixer.PARAMETERS, LETTERS, 12, shapes)
  assert read() == sizes_of(config)
  shapes['stem/bias'] = (5,)
  del shapes['head/kernel']
  assert read() == sizes_of(config)
  del shapes['head/bias']
  assert 'N' not in read()


def test_a_family_is_recognised_by_its_names():
  for config in (models.VARIANTS['S/32'], models.ResNetConfig(stages='1,2')):
    names = [f'opt_state/0/mu/{name}' for name in models.param_shapes(config)]
    found, rows = family.find_rows(names)
    assert found is family.of(config)
    assert rows[names[0]][0] == 'stem/kernel'
    kernels = [name for name, (_, row) in rows.items() if row.decay]
    assert kernels == [name for name in names if name.endswith('kernel')]
  with pytest.raises(ValueError, match='no model has a parameter head/scale, next to the others'):
    family.find_rows(['stem/kernel', 'head/scale'])


def test_weight_decay_is_of_kernels():
  for config in (models.VARIANTS['S/32'], models.ResNetConfig(stages='1,2')):
    for name, decays in flatten(models.decayed(models.shapes(config))).items():
      assert decays == name.endswith('/kernel'), name


def test_flatten_and_unflatten_are_inverse():
  flat = {'a/b/c': np.zeros(1), 'a/d': np.ones(2), 'e': np.ones(3)}
  assert jax.tree.map(id, flatten(unflatten(flat))) == jax.tree.map(id, flat)


@pytest.mark.parametrize('name', mixer.VARIANTS)
def test_a_variant_is_recognised_also_when_grown(name):
  config = models.VARIANTS[name]
  assert models.variant_of(dataclasses.replace(config, num_classes=3, dtype='bfloat16')) == name
  grown = dataclasses.replace(config, image_size=448, tokens_mlp_dim=4 * config.tokens_mlp_dim)
  assert models.variant_of(grown) == f'{name} grown to 448 px'
  assert models.base_variant(grown) == models.base_variant(config) == name
  other = f'blocks, width {config.hidden_dim}'
  assert models.variant_of(dataclasses.replace(config, num_blocks=7)) == f'Mixer of 7 {other}'
  larger = dataclasses.replace(config, image_size=448)  # and its token MLP as it was
  assert models.variant_of(larger) == f'Mixer of {config.num_blocks} {other}'
