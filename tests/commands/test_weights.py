"""`mixer-jax weights`: its files, for what `load` takes, and bad input."""

import jax
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.analysis import position_embeddings, token_units
from mixer_jax.models import MixerConfig, ResNetConfig
from mixer_jax.models.resolution import grow
from tests.docs.file_keys import assert_documented
from tests.helpers.factories import random_params, tiny_vit

CONFIG = MixerConfig(4, 4, 12, 10, 8, image_size=16, num_classes=3)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp('weights')
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(size=leaf.shape).astype(np.float32)
  params = jax.tree.map(draw, models.shapes(CONFIG))
  mixer_jax.save(folder / 'small.npz', CONFIG, params)
  mixer_jax.save(folder / 'grown.safetensors', *grow(CONFIG, params, 32))
  return folder


@pytest.mark.parametrize(('file', 'side'), [('small.npz', 4), ('grown.safetensors', 8)])
def test_the_first_three_blocks_and_the_stem_are_drawn(file, side, folder, tmp_path, capsys):
  out = tmp_path / 'out'
  assert main(['weights', f'--checkpoint={folder / file}', f'--output={out}']) == 0
  assert 'block 2: ' in capsys.readouterr().out
  config, params = mixer_jax.load(folder / file)
  with np.load(f'{out}.npz') as found:
    assert {name.split('/')[0] for name in found} == {'block_0', 'block_1', 'block_2', 'stem'}
    units = token_units.token_units(config, params, 2)
    assert units.shape[1:] == (side, side)
    np.testing.assert_array_equal(found['block_2/frequency'], token_units.frequencies(units))
    order = token_units.in_opposite_pairs(units, found['block_2/frequency'])
    np.testing.assert_array_equal(found['block_2/order'], order)
    assert found['block_2/pair_cosine'].shape == (len(units) // 2,)
    assert (np.diff(found['stem/frequency'][found['stem/order']]) >= 0).all()
  for name in ('tokens', 'stem'):
    with Image.open(f'{out}_{name}.png') as image:
      assert min(image.size) > 150


def test_blocks_and_units_are_chosen(folder, tmp_path, capsys):
  argv = ['weights', f'--checkpoint={folder / "small.npz"}', f'--output={tmp_path / "out"}']
  assert main([*argv, '--blocks=3', '--units=4']) == 0
  assert capsys.readouterr().out.startswith('block 3: 4 of 10 units')
  with np.load(tmp_path / 'out.npz') as found:
    assert sorted(found['block_3/order']) == list(range(10))  # all of them are in the file


@pytest.mark.parametrize('pooling', ['token', 'gap'])
def test_positions_and_the_stem_of_a_vit_are_drawn(pooling, tmp_path, capsys):
  config = tiny_vit(pooling=pooling, image_size=40)
  params = random_params(config)
  mixer_jax.save(tmp_path / 'vit.npz', config, params)
  out = tmp_path / 'out'
  assert main(['weights', f'--checkpoint={tmp_path / "vit.npz"}', f'--output={out}']) == 0
  first, second, files = capsys.readouterr().out.splitlines()
  assert first == 'position embeddings of 10×10 patches: cosine of each with all'
  assert second.startswith('stem: 16 units, from ')
  assert files == f'{out}_positions.png, {out}_stem.png, {out}.npz'
  assert_documented('weights.npz', tmp_path / 'out.npz')
  with np.load(f'{out}.npz') as found:
    assert set(found) == {'positions/similarity', 'stem/order', 'stem/frequency'}
    wanted = position_embeddings.similarity(config, params)
    np.testing.assert_array_equal(found['positions/similarity'], wanted)
  for name in ('positions', 'stem'):
    with Image.open(f'{out}_{name}.png') as image:
      assert min(image.size) > 150
  names = sorted(path.name for path in tmp_path.iterdir())
  assert names == ['out.npz', 'out_positions.png', 'out_stem.png', 'vit.npz']
  argv = ['weights', f'--checkpoint={tmp_path / "vit.npz"}', f'--output={out}', '--blocks=0']
  assert main(argv) == 2
  assert capsys.readouterr().err == 'mixer-jax: a ViT mixes no tokens by weights\n'


def test_of_a_resnet_the_stem_is_drawn(tmp_path, capsys):
  config = ResNetConfig('1', width=0.5, image_size=32, num_classes=3)
  mixer_jax.save(tmp_path / 'bit.npz', config, random_params(config))
  out = tmp_path / 'out'
  assert main(['weights', f'--checkpoint={tmp_path / "bit.npz"}', f'--output={out}']) == 0
  assert capsys.readouterr().out.startswith('stem: 32 units, from ')
  with np.load(f'{out}.npz') as found:
    assert found['stem/order'].shape == (32,)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['bit.npz', 'out.npz', 'out_stem.png']


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--blocks=0,4'], 'no block 4: this Mixer has blocks 0 to 3'),
    (['--blocks=x'], '--blocks=x: whole numbers, as in 1,5,10'),
    (['--units=1'], 'units=1: show at least a pair'),
    (['--output=/nowhere/x'], 'no folder for --output'),
    (['--checkpoint=nosuch'], 'no checkpoint nosuch'),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(flags, message, folder, tmp_path, capsys):
  out = [] if '--output' in flags[0] else [f'--output={tmp_path / "out"}']
  assert main(['weights', f'--checkpoint={folder / "small.npz"}', *out, *flags]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert list(tmp_path.iterdir()) == []
