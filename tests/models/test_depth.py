"""A Mixer without some of its blocks, against one whose blocks add nothing."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models import ResNetConfig, layers, mixer
from mixer_jax.models.depth import with_blocks
from mixer_jax.models.resolution import grow
from tests.helpers import factories, reference

CONFIG = factories.tiny_mixer(
  patch_size=8,
  num_blocks=5,
  hidden_dim=12,
  tokens_mlp_dim=6,
  channels_mlp_dim=20,
  image_size=32,
  num_classes=7,
)


def silenced(params: dict, blocks) -> dict:
  """The last layers of both branches of these blocks at zero."""
  params = dict(params)
  for i in blocks:
    block = dict(params[f'MixerBlock_{i}'])
    for mlp in ('token_mixing', 'channel_mixing'):
      zero = jax.tree.map(np.zeros_like, block[mlp]['Dense_1'])
      block[mlp] = {**block[mlp], 'Dense_1': zero}
    params[f'MixerBlock_{i}'] = block
  return params


@pytest.fixture(scope='module')
def images() -> np.ndarray:
  return np.random.default_rng(1).uniform(-1, 1, (3, 32, 32, 3)).astype(np.float32)


@pytest.mark.parametrize('gone', [(0,), (2,), (4,), (1, 2), (0, 2, 4), (0, 1, 2, 3)])
def test_to_remove_a_block_is_to_zero_its_branches(gone, images):
  params = factories.random_params(CONFIG)
  small, kept = with_blocks(CONFIG, params, [i for i in range(5) if i not in gone])
  wanted = reference.forward(CONFIG, silenced(params, gone), images)
  np.testing.assert_array_equal(reference.forward(small, kept, images), wanted)  # to the bit
  np.testing.assert_allclose(mixer_jax.apply(small, kept, images), wanted, rtol=0, atol=1e-5)


def test_blocks_are_renumbered_and_nothing_else_changes():
  params = factories.random_params(CONFIG)
  small, kept = with_blocks(CONFIG, params, (0, 3, 4))
  assert small == dataclasses.replace(CONFIG, num_blocks=3)
  shape = lambda leaf: leaf.shape
  assert jax.tree.map(shape, kept) == jax.tree.map(shape, models.shapes(small))
  for new, old in enumerate((0, 3, 4)):
    assert kept[f'MixerBlock_{new}'] is params[f'MixerBlock_{old}']
  for name in ('stem', 'pre_head_layer_norm', 'head'):
    assert kept[name] is params[name]
  again, twice = with_blocks(small, kept, (1,))
  assert (again.num_blocks, twice['MixerBlock_0']) == (1, params['MixerBlock_3'])


def test_stochastic_depth_is_linear_over_the_blocks_that_are_left(monkeypatch):
  config = dataclasses.replace(CONFIG, stochastic_depth=0.4)
  small, kept = with_blocks(config, factories.random_params(config), (1, 2, 4))
  rates = []
  rate = layers.skip_rate
  monkeypatch.setattr(layers, 'skip_rate', lambda *of: rates.append(rate(*of)) or rates[-1])
  images, key = np.zeros((1, 32, 32, 3), np.float32), jax.random.key(0)
  how = {'state': {}, 'train': True, 'key': key}
  jax.eval_shape(functools.partial(mixer.run, small, **how), kept, images)
  assert rates == pytest.approx([0, 0.2, 0.4])
  rates.clear()
  small, kept = with_blocks(config, factories.random_params(config), (4,))
  jax.eval_shape(functools.partial(mixer.run, small, **how), kept, images)
  assert rates == [0]  # as of any Mixer of one block


def test_gradients_are_those_of_the_silenced_mixer_also_with_remat(images):
  whole = dataclasses.replace(CONFIG, num_blocks=2)
  params = factories.random_params(whole)
  small, kept = with_blocks(dataclasses.replace(whole, remat=True), params, (1,))
  assert small.remat

  @functools.partial(jax.jit, static_argnums=0)
  def gradient(config, params):
    return jax.grad(lambda p: (mixer_jax.apply(config, p, images) ** 2).sum())(params)

  wanted, found = gradient(whole, silenced(params, [0])), gradient(small, kept)
  for new, old in (('MixerBlock_0', 'MixerBlock_1'), ('stem', 'stem'), ('head', 'head')):
    scale = max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(wanted[old]))
    for a, b in zip(*map(jax.tree.leaves, (found[new], wanted[old])), strict=True):
      np.testing.assert_allclose(a, b, rtol=0, atol=1e-5 * scale)


def test_a_grown_mixer_loses_blocks_and_a_pruned_one_grows():
  params = factories.random_params(CONFIG)
  first = grow(*with_blocks(CONFIG, params, (0, 2)), 64)
  second = with_blocks(*grow(CONFIG, params, 64), (0, 2))
  assert first[0] == second[0]
  jax.tree.map(np.testing.assert_array_equal, first[1], second[1])


@pytest.mark.parametrize('suffix', ['npz', 'safetensors'])
def test_it_is_saved_and_loaded_like_any_other(suffix, tmp_path):
  params = factories.random_params(CONFIG)
  mixer_jax.save(tmp_path / f'whole.{suffix}', CONFIG, params)
  config, kept = mixer_jax.load(tmp_path / f'whole.{suffix}', blocks=(1, 4))
  mixer_jax.save(tmp_path / f'pruned.{suffix}', config, kept)
  again, read = mixer_jax.load(tmp_path / f'pruned.{suffix}')
  assert again == config
  jax.tree.map(np.testing.assert_array_equal, read, with_blocks(CONFIG, params, (1, 4))[1])


@pytest.mark.parametrize(
  ('blocks', 'message'),
  [
    ([], 'no blocks are left'),
    (3, 'blocks are numbers, as in'),
    ('01', 'blocks are numbers, as in'),
    ([0, 0], 'blocks 0,0 must ascend'),
    ([2, 1], 'blocks 2,1 must ascend'),
    ([0, 5], 'this Mixer has blocks 0 to 4'),
    ([-1, 2], 'this Mixer has blocks 0 to 4'),
    ([0.0, 1.0], 'name those that stay'),
  ],
)
def test_other_blocks_are_refused(blocks, message):
  with pytest.raises(UserError, match=message):
    with_blocks(CONFIG, factories.random_params(CONFIG), blocks)


def test_a_resnet_is_refused():
  with pytest.raises(UserError, match='a ResNet does not define keep_blocks'):
    with_blocks(ResNetConfig(), {}, [0])
