"""Weights files of ViTs and ResNets in every layout: the same bits, and faults in one line."""

import dataclasses

import jax
import numpy as np
import pytest
import safetensors
import safetensors.numpy

import mixer_jax
from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import layouts
from mixer_jax.errors import UserError
from mixer_jax.models.parameters import flatten
from tests.checkpoints.test_layouts import write
from tests.helpers import factories, golden_models

FILES = [  # name, end of the file's name, layout
  ('vit_token', '.npz', 'modern'),
  ('vit_token', '.linen.npz', 'linen'),
  ('vit_token', '.timm.safetensors', 'timm'),
  ('vit_gap', '.npz', 'modern'),
  ('vit_gap', '.linen.npz', 'linen'),
  ('vit_representation', '.npz', 'modern'),
  ('vit_representation', '.linen.npz', 'linen'),
  ('bit_tiny', '.npz', 'modern'),
  ('bit_tiny', '.big_vision.npz', 'big_vision'),
]
POSITIONS = 'Transformer/posembed_input/pos_embedding'
BLOCK = 'Transformer/encoderblock_'
HEADS = {'num_heads': 3}


def arrays(name: str, end: str = '.npz') -> dict[str, np.ndarray]:
  """The arrays of a golden file, as stored."""
  path = golden_models.DATA / f'{name}{end}'
  if end.endswith('.npz'):
    with np.load(path) as file:
      return dict(file)
  return safetensors.numpy.load_file(path)


def assert_same(found: dict, wanted: dict) -> None:
  found, wanted = flatten(found), flatten(wanted)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array, err_msg=name)
    assert found[name].dtype == np.float32


@pytest.mark.parametrize(('name', 'end', 'layout'), FILES)
def test_every_layout_gives_the_same_config_and_bits(name, end, layout):
  config, params, expected = golden_models.read(name)
  known = {'image_size': expected['images'].shape[1], **(HEADS if layout == 'timm' else {})}
  weights = layouts.read(golden_models.DATA / f'{name}{end}', known)
  assert (weights.config, weights.layout, weights.dtypes) == (config, layout, ('float32',))
  assert_same(weights.params, params)


def test_exact_gelu_is_timms():
  path = golden_models.DATA / 'vit_token.timm.safetensors'
  config, params = mixer_jax.load(path, gelu='erf', num_heads=3)
  expected = golden_models.read('vit_token')[2]
  logits = mixer_jax.apply(config, params, expected['images'])
  np.testing.assert_allclose(logits, expected['logits_erf'], atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', ['vit_token', 'vit_gap', 'vit_representation', 'bit_tiny'])
def test_what_is_written_as_npz_has_the_published_names_and_bits(tmp_path, name):
  config, params, _ = golden_models.read(name)
  config = dataclasses.replace(config, groups=32) if name == 'bit_tiny' else config
  mixer_jax.save(tmp_path / 'w.npz', config, params)
  with np.load(tmp_path / 'w.npz') as file:
    found = dict(file)
  wanted = arrays(name)
  assert found.keys() == wanted.keys()
  for array in wanted:
    np.testing.assert_array_equal(found[array], wanted[array], err_msg=array)
  again, read = mixer_jax.load(tmp_path / 'w.npz', image_size=config.image_size)
  assert again == config
  assert_same(read, params)


def test_what_is_written_for_timm_has_timms_names_and_bits(tmp_path):
  config, params, _ = golden_models.read('vit_token')
  mixer_jax.save(tmp_path / 'w.safetensors', config, params)
  found = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  wanted = arrays('vit_token', '.timm.safetensors')
  assert found.keys() == wanted.keys()
  for array in wanted:
    np.testing.assert_array_equal(found[array], wanted[array], err_msg=array)
  with safetensors.safe_open(tmp_path / 'w.safetensors', framework='numpy') as file:
    assert file.metadata() == {'format': 'pt', 'num_heads': '3'}


@pytest.mark.parametrize(
  'config',
  [
    factories.tiny_vit(),
    factories.tiny_vit(pooling='gap', num_heads=4),
    factories.tiny_vit(pooling='map'),
    factories.tiny_vit(pooling='map', position='sincos2d', image_size=32),
    models.ResNetConfig('2,1', 0.125, 'cifar', groups=8, image_size=24, num_classes=4),
  ],
  ids=lambda config: f'{config.family}-{getattr(config, "pooling", "")}',
)
def test_timms_layout_keeps_config_and_bits_of_each_head(tmp_path, config):
  params = factories.random_params(config)
  mixer_jax.save(tmp_path / 'w.safetensors', config, params)
  again, found = mixer_jax.load(tmp_path / 'w.safetensors')
  assert again == config  # also what no array tells: heads, image size, groups
  assert_same(found, params)


def test_names_of_attention_pooling_are_timms(tmp_path):
  config = factories.tiny_vit(pooling='map')
  mixer_jax.save(tmp_path / 'w.safetensors', config, factories.random_params(config))
  names = safetensors.numpy.load_file(tmp_path / 'w.safetensors')
  pooling = {name: array.shape for name, array in names.items() if name.startswith('attn_pool.')}
  assert pooling == {
    'attn_pool.latent': (1, 1, 16),
    'attn_pool.q.weight': (16, 16),
    'attn_pool.q.bias': (16,),
    'attn_pool.kv.weight': (32, 16),
    'attn_pool.kv.bias': (32,),
    'attn_pool.proj.weight': (16, 16),
    'attn_pool.proj.bias': (16,),
    'attn_pool.norm.weight': (16,),
    'attn_pool.norm.bias': (16,),
    'attn_pool.mlp.fc1.weight': (32, 16),
    'attn_pool.mlp.fc1.bias': (32,),
    'attn_pool.mlp.fc2.weight': (16, 32),
    'attn_pool.mlp.fc2.bias': (16,),
  }


@pytest.mark.parametrize('prefix', ['params/', 'opt/target/', 'params/img/', 'img/'])
@pytest.mark.parametrize(('name', 'end'), [('vit_token', '.linen.npz'), ('bit_tiny', '.npz')])
def test_params_may_be_wrapped_and_lie_beside_others(tmp_path, name, end, prefix):
  stored = {prefix + key: array for key, array in arrays(name, end).items()}
  if prefix != 'img/':
    stored |= {'opt/state/step': np.array(7)}
  if 'img' in prefix:
    outside = prefix.removesuffix('img/')
    stored |= {f'{outside}txt/embedding': np.zeros((5, 3)), f'{outside}t': np.zeros(1)}
  write(tmp_path / 'w.npz', stored)
  config, params, _ = golden_models.read(name)
  found = layouts.read(tmp_path / 'w.npz', {'image_size': config.image_size})
  assert found.config == config
  assert_same(found.params, params)


def test_blocks_may_be_stacked_along_an_axis(tmp_path):
  stored, stacks = {}, {}
  for name, array in arrays('vit_token', '.linen.npz').items():
    if name.startswith(BLOCK):
      number, _, end = name.removeprefix(BLOCK).partition('/')
      stacks.setdefault(f'Transformer/encoderblock/{end}', {})[int(number)] = array
    else:
      stored[name] = array
  stored |= {name: np.stack([parts[i] for i in range(3)]) for name, parts in stacks.items()}
  write(tmp_path / 'w.npz', stored)
  config, params, _ = golden_models.read('vit_token')
  found = layouts.read(tmp_path / 'w.npz')
  assert found.config == config
  assert_same(found.params, params)
  stored['Transformer/encoderblock/LayerNorm_0/bias'] = np.zeros((3, 9), np.float32)
  write(tmp_path / 'w.npz', stored)
  with pytest.raises(UserError, match=r'encoderblock/LayerNorm_0/bias has shape \(9,\)'):
    layouts.read(tmp_path / 'w.npz')


@pytest.mark.parametrize('name', [POSITIONS, 'pos_embedding', 'Transformer/pos_embedding'])
def test_the_position_of_the_class_token_may_be_added_to_it(tmp_path, name):
  stored = arrays('vit_token', '.linen.npz')
  positions = stored.pop(POSITIONS)
  stored['cls'] = stored['cls'] + positions[:, :1]
  stored[name] = positions[:, 1:]
  write(tmp_path / 'w.npz', stored)
  config, params = mixer_jax.load(tmp_path / 'w.npz')
  wanted, _, expected = golden_models.read('vit_token')
  assert config == wanted
  logits = mixer_jax.apply(config, params, expected['images'])
  np.testing.assert_allclose(logits, expected['logits'], atol=1e-5, rtol=0)


def test_convolutions_may_be_numbered(tmp_path):
  names = (name.replace('conv2d/', f'conv2d_{i}/') for i, name in enumerate(arrays('bit_tiny')))
  write(tmp_path / 'w.npz', dict(zip(names, arrays('bit_tiny').values(), strict=True)))
  assert_same(mixer_jax.load(tmp_path / 'w.npz')[1], golden_models.read('bit_tiny')[1])


@pytest.mark.parametrize(('name', 'end', 'layout'), [FILES[1], FILES[2], FILES[7]])
def test_bfloat16_becomes_float32(tmp_path, name, end, layout):
  dtype = jax.numpy.dtype('bfloat16')
  path = tmp_path / ('w.npz' if end.endswith('.npz') else 'w.safetensors')
  write(path, {key: array.astype(dtype) for key, array in arrays(name, end).items()})
  weights = layouts.read(path, HEADS if layout == 'timm' else {})
  assert weights.dtypes == ('bfloat16',)
  wanted = golden_models.read(name)[1]
  assert_same(weights.params, jax.tree.map(lambda a: a.astype(dtype).astype(np.float32), wanted))


# --- Bad input.


def test_heads_that_nothing_tells(tmp_path):
  path = golden_models.DATA / 'vit_token.timm.safetensors'
  with pytest.raises(UserError, match='how many heads share its 24 channels: name them, as num_'):
    mixer_jax.load(path)
  with pytest.raises(UserError, match=r'24 cannot be shared by model\.num_heads=5: take 4 or 6'):
    mixer_jax.load(path, num_heads=5)
  for text, message in (('many', "num_heads='many', no number"), ('-3', 'positive whole number')):
    safetensors.numpy.save_file(
      arrays('vit_token', '.timm.safetensors'), tmp_path / 'w.safetensors', {'num_heads': text}
    )
    with pytest.raises(UserError, match=message) as error:
      mixer_jax.load(tmp_path / 'w.safetensors')
    assert str(tmp_path / 'w.safetensors') in str(error.value)


def test_heads_that_are_not_those_of_the_file():
  with pytest.raises(UserError, match=r'a ViT .* with 3 heads, not num_heads=4'):
    mixer_jax.load(golden_models.DATA / 'vit_token.npz', num_heads=4)
  with pytest.raises(UserError, match='with no heads, not num_heads=4'):
    mixer_jax.load(golden_models.DATA / 'mixer_tiny.npz', num_heads=4)
  assert checkpoints.read(golden_models.DATA / 'vit_token.npz', num_heads=3).config.num_heads == 3


def test_names_of_two_layouts_in_one_file(tmp_path):
  modern, linen = arrays('vit_token'), arrays('vit_token', '.linen.npz')
  mixed = {name: a for name, a in modern.items() if not name.startswith(f'{BLOCK}1/')}
  mixed |= {name: a for name, a in linen.items() if name.startswith(f'{BLOCK}1/')}
  write(tmp_path / 'w.npz', mixed)
  with pytest.raises(UserError, match='it mixes names of the layouts modern and linen') as error:
    mixer_jax.load(tmp_path / 'w.npz')
  assert '\n' not in str(error.value)


def test_positions_that_fill_no_square(tmp_path):
  for name, rows, message in (
    ('vit_token', 15, r'15 position embeddings \(one may be of the class token\) do not fill'),
    ('vit_gap', 10, '10 position embeddings do not fill a square image'),
  ):
    stored = arrays(name)
    stored[POSITIONS] = np.zeros((1, rows, stored[POSITIONS].shape[2]), np.float32)
    write(tmp_path / 'w.npz', stored)
    with pytest.raises(UserError, match=message):
      mixer_jax.load(tmp_path / 'w.npz')


def test_a_missing_and_a_superfluous_array_are_named(tmp_path):
  stored = arrays('vit_token', '.timm.safetensors')
  del stored['blocks.1.attn.qkv.bias']
  stored['blocks.1.attn.scale'] = np.zeros(3, np.float32)
  write(tmp_path / 'w.safetensors', stored)
  with pytest.raises(UserError) as error:
    mixer_jax.load(tmp_path / 'w.safetensors', num_heads=3)
  text = str(error.value)
  assert 'blocks.1.attn.qkv.bias (72,) is missing' in text
  assert 'blocks.1.attn.scale (3,) is not part of a ViT' in text
  assert text.count(';') == 1


def test_a_unit_that_is_missing_in_the_middle(tmp_path):
  stored = arrays('bit_tiny')
  for block in (1, 2):
    start = f'resnet/block{block}/'
    write(tmp_path / 'w.npz', {n: a for n, a in stored.items() if not n.startswith(start)})
    with pytest.raises(UserError, match=f'{start}unit01/… is missing'):
      mixer_jax.load(tmp_path / 'w.npz')
  moved = {name.replace('block2/unit01', 'block2/unit03'): a for name, a in stored.items()}
  write(tmp_path / 'w.npz', moved)
  with pytest.raises(UserError, match='resnet/block2/unit01/… is missing'):
    mixer_jax.load(tmp_path / 'w.npz')
  del stored['resnet/block2/unit01/b/group_norm/gamma']
  write(tmp_path / 'w.npz', stored)
  with pytest.raises(UserError, match=r'block2/unit01/b/group_norm/gamma \(64,\) is missing'):
    mixer_jax.load(tmp_path / 'w.npz')


@pytest.mark.parametrize(
  ('end', 'old', 'new', 'message'),
  [
    ('.timm.safetensors', 'norm.', 'fc_norm.', 'it has fc_norm.*a norm after the mean'),
    ('.timm.safetensors', 'head.', '', 'it has no classification head'),
    ('.npz', 'head/', '', 'it has no classification head'),
    ('.npz', 'embedding/', 'conv_root/', 'a hybrid of ResNet and ViT'),
  ],
)
def test_models_that_are_like_ours(tmp_path, end, old, new, message):
  stored = {}
  for name, array in arrays('vit_token', end).items():
    if not name.startswith(old):
      stored[name] = array
    elif new:
      stored[new + name.removeprefix(old)] = array
  path = tmp_path / ('w.npz' if end == '.npz' else 'w.safetensors')
  write(path, stored)
  with pytest.raises(UserError, match=message) as error:
    mixer_jax.load(path, num_heads=3)
  assert '\n' not in str(error.value)


def test_what_a_layout_cannot_hold_is_not_written(tmp_path):
  config, params, _ = golden_models.read('vit_representation')
  with pytest.raises(UserError, match='timm has no representation layer: give the model a new'):
    mixer_jax.save(tmp_path / 'w.safetensors', config, params)
  resnet = models.ResNetConfig('1,1', 0.125, groups=8, num_classes=4)
  with pytest.raises(UserError, match=r"BiT's 32 groups, not 8: write it as \*.safetensors"):
    mixer_jax.save(tmp_path / 'w.npz', resnet, factories.random_params(resnet))
  assert not list(tmp_path.iterdir())


# --- Other image sizes.


@pytest.mark.parametrize('size', [12, 24])
def test_a_vit_is_loaded_at_another_size(size):
  config, params = mixer_jax.load(golden_models.DATA / 'vit_token.npz', image_size=size)
  assert config.image_size == size
  table = params['Transformer']['posembed_input']['pos_embedding']
  assert table.shape == (1, (size // 4) ** 2 + 1, 24)
  old = arrays('vit_token')[POSITIONS]
  np.testing.assert_array_equal(table[:, 0], old[:, 0])  # of the class token
  np.testing.assert_array_equal(table[:, [1, -1]], old[:, [1, -1]])  # corners


def test_a_resnet_is_loaded_at_any_size():
  path = golden_models.DATA / 'bit_tiny.npz'
  assert mixer_jax.load(path)[0].image_size == 224
  assert mixer_jax.load(path, image_size=33)[0].image_size == 33
