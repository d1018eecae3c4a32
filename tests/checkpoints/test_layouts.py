"""Weights files of every layout: the same bits, and every fault in one line."""

import dataclasses
import subprocess
import sys

import jax
import numpy as np
import pytest
import safetensors.numpy

import mixer_jax
from mixer_jax import models
from mixer_jax.checkpoints import layouts
from mixer_jax.errors import UserError
from mixer_jax.models import mixer, parameters
from mixer_jax.models.parameters import flatten
from tests.helpers import reference

FILES = {
  'modern': reference.DATA / 'mixer_tiny.npz',
  'legacy': reference.DATA / 'mixer_tiny.legacy.npz',
  'timm': reference.DATA / 'mixer_tiny.timm.safetensors',
}


LAYOUTS = {layout.name: layout for layout in mixer.LAYOUTS}


def arrays(layout: str) -> dict[str, np.ndarray]:
  """The arrays of a golden file, as stored."""
  if layout == 'timm':
    return safetensors.numpy.load_file(FILES[layout])
  with np.load(FILES[layout]) as file:
    return dict(file)


def write(path, weights: dict) -> None:
  """A file of these arrays, by its suffix."""
  if path.suffix == '.npz':
    np.savez(path, **weights)  # pyright: ignore[reportArgumentType]
  else:
    safetensors.numpy.save_file(weights, path)


def random_params(config: mixer_jax.MixerConfig, seed: int = 0) -> dict:
  """No leaf at zero or one, so that a skipped or swapped one shows; variances are kept."""
  rng = np.random.default_rng(seed)
  flat = {}
  for name, shape in models.param_shapes(config).items():
    fan_in = np.prod(shape[:-1]) if name.endswith('kernel') else 100
    centre = np.float32(name.endswith('scale'))
    flat[name] = centre + rng.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))
  return parameters.unflatten(flat)


@pytest.mark.parametrize('layout', FILES)
def test_every_layout_gives_the_same_config_and_bits(layout):
  weights = layouts.read(FILES[layout])
  config, params, _ = reference.golden()
  assert weights.config == config
  assert (weights.layout, weights.dtypes) == (layout, ('float32',))
  wanted, found = flatten(params), flatten(weights.params)
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize(('gelu', 'expected'), [('', 'logits'), ('erf', 'logits_erf')])
@pytest.mark.parametrize('layout', FILES)
def test_logits_are_the_authors_or_with_exact_gelu_timms(layout, gelu, expected):
  config, params = mixer_jax.load(FILES[layout], gelu=gelu)
  assert config.gelu == (gelu or 'tanh')
  wanted = reference.golden()[2]
  logits = mixer_jax.apply(config, params, wanted['images'])
  np.testing.assert_allclose(logits, wanted[expected], atol=1e-5)


@pytest.mark.parametrize(
  'prefix', ['module.', 'model.', '_orig_mod.', 'backbone.', 'state_dict.', 'ema.module._orig_mod.']
)
def test_names_may_begin_as_pytorchs_wrappers_let_them(tmp_path, prefix):
  path = tmp_path / 'w.safetensors'
  write(path, {prefix + name: array for name, array in arrays('timm').items()})
  found = layouts.read(path)
  np.testing.assert_array_equal(found.params['head']['kernel'], arrays('modern')['head/kernel'])


def test_two_models_in_one_file_are_none(tmp_path):
  path = tmp_path / 'w.safetensors'
  write(path, {p + name: a for name, a in arrays('timm').items() for p in ('model.', 'ema.')})
  with pytest.raises(UserError, match='these are not the weights of'):
    layouts.read(path)


@pytest.mark.parametrize('prefix', ['params/', 'opt/target/', 'opt/target/params/'])
@pytest.mark.parametrize('layout', ['modern', 'legacy'])
def test_params_may_be_wrapped_and_lie_beside_an_optimizer(tmp_path, layout, prefix):
  stored = {prefix + name: array for name, array in arrays(layout).items()}
  stored |= {'opt/state/step': np.array(7), 'opt/state/stem/kernel/mu': np.zeros(3)}
  write(tmp_path / 'w.npz', stored)
  found = layouts.read(tmp_path / 'w.npz')
  assert found.layout == layout
  np.testing.assert_array_equal(found.params['head']['kernel'], arrays(layout)['head/kernel'])


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
@pytest.mark.parametrize('layout', FILES)
def test_a_round_trip_keeps_every_bit(tmp_path, layout, suffix):
  config, params = mixer_jax.load(FILES[layout])
  path = tmp_path / f'out{suffix}'
  mixer_jax.save(path, config, params)
  again, found = mixer_jax.load(path)
  assert again == config
  for name, array in flatten(params).items():
    assert flatten(found)[name].tobytes() == array.tobytes(), name
  assert [entry.name for entry in tmp_path.iterdir()] == [path.name]  # nothing is left aside


def test_what_is_written_for_timm_has_timms_names_shapes_and_bits(tmp_path):
  mixer_jax.save(tmp_path / 'w.safetensors', *mixer_jax.load(FILES['modern']), layout='timm')
  found, wanted = safetensors.numpy.load_file(tmp_path / 'w.safetensors'), arrays('timm')
  assert found.keys() == wanted.keys()
  for name, array in wanted.items():
    np.testing.assert_array_equal(found[name], array)
  with safetensors.safe_open(tmp_path / 'w.safetensors', framework='numpy') as file:
    assert file.metadata() == {'format': 'pt'}


def test_params_on_a_device_and_of_a_narrow_dtype_are_saved(tmp_path):
  config, params = mixer_jax.load(FILES['modern'])
  half = jax.tree.map(lambda leaf: jax.numpy.asarray(leaf, 'bfloat16'), params)
  mixer_jax.save(tmp_path / 'w.npz', config, half)
  found = mixer_jax.load(tmp_path / 'w.npz')[1]
  np.testing.assert_array_equal(found['stem']['kernel'], np.float32(half['stem']['kernel']))


@pytest.mark.parametrize('dtype', ['bfloat16', 'float16', 'float64'])
@pytest.mark.parametrize('layout', ['modern', 'timm'])
def test_other_floats_become_float32(tmp_path, layout, dtype, caplog):
  dtype = jax.numpy.dtype(dtype)
  path = (tmp_path / 'w').with_suffix(FILES[layout].suffix)
  write(path, {name: array.astype(dtype) for name, array in arrays(layout).items()})
  with caplog.at_level('INFO'):
    weights = layouts.read(path)
  assert f'{path}: {dtype} weights, converted to float32' in caplog.text
  assert weights.dtypes == (str(dtype),)
  wanted = arrays('modern')['stem/kernel'].astype(dtype).astype(np.float32)
  np.testing.assert_array_equal(weights.params['stem']['kernel'], wanted)
  assert weights.params['stem']['kernel'].dtype == np.float32


def logits_of(config, params) -> np.ndarray:
  rng = np.random.default_rng(1)
  images = rng.uniform(-1, 1, (1, config.image_size, config.image_size, 3)).astype(np.float32)
  with jax.default_matmul_precision('highest'):
    ours = np.asarray(mixer_jax.apply(config, jax.device_put(params), images))
  wanted = reference.forward(config, params, images)
  np.testing.assert_allclose(ours, wanted, atol=1e-5)
  return ours


@pytest.mark.parametrize(
  'variant',
  ['S/16', *(pytest.param(name, marks=pytest.mark.long) for name in ('B/16', 'L/16'))],
)
def test_full_size_files_of_every_layout_give_the_very_same_logits(tmp_path, variant):
  config = models.VARIANTS[variant]
  params = random_params(config)
  legacy = LAYOUTS['legacy']
  with_ones = {  # as the authors' first code stored them
    legacy.rename(name): array[None] if '_mixing/' in name else array
    for name, array in flatten(params).items()
  }
  for name in ('modern.npz', 'timm.safetensors'):
    mixer_jax.save(tmp_path / name, config, params)
  write(tmp_path / 'legacy.npz', with_ones)
  write(tmp_path / 'wrapped.npz', {f'opt/target/{n}': a for n, a in flatten(params).items()})
  del params, with_ones
  first = None
  for path in sorted(tmp_path.iterdir()):
    found, params = mixer_jax.load(path)
    assert found == config
    assert models.variant_of(found) == variant
    logits = logits_of(found, params)
    first = logits if first is None else first
    assert logits.tobytes() == first.tobytes(), path
    path.unlink()


@pytest.mark.parametrize('layout', FILES)
def test_all_faults_are_told_at_once_as_the_file_names_them(tmp_path, layout):
  chosen = LAYOUTS[layout]
  weights = arrays(layout)
  name = chosen.rename
  del weights[name('MixerBlock_1/LayerNorm_0/scale')]
  weights[name('head/bias')] = np.zeros(9, np.float32)
  weights['extra/kernel'] = np.zeros(3, np.float32)
  weights[name('stem/bias')] = weights[name('stem/bias')].astype(np.int32)
  weights[name('MixerBlock_2/token_mixing/Dense_0/kernel')].flat[5] = np.nan
  weights[name('MixerBlock_0/LayerNorm_1/scal')] = weights.pop(
    name('MixerBlock_0/LayerNorm_1/scale')
  )
  wrong = name('MixerBlock_0/channel_mixing/Dense_0/kernel')
  weights[wrong] = np.zeros((5, 6), np.float32)
  path = (tmp_path / 'w').with_suffix(FILES[layout].suffix)
  write(path, weights)
  with pytest.raises(UserError) as error:
    mixer_jax.load(path)
  text = str(error.value)
  assert '\n' not in text
  expected = '(48, 24)' if layout == 'timm' else '(24, 48)'
  for part in (
    f'{path}: ',
    f'{name("MixerBlock_1/LayerNorm_0/scale")} (24,) is missing',
    f'{name("MixerBlock_0/LayerNorm_1/scale")} (24,) is missing',
    f'{name("MixerBlock_0/LayerNorm_1/scal")} (24,) is not part of a Mixer',
    'extra/kernel (3,) is not part of a Mixer',
    f'{name("head/bias")} has shape (9,), expected (7,)',
    f'{wrong} has shape (5, 6), expected {expected}',
    f'{name("stem/bias")} holds',
    f'{name("MixerBlock_2/token_mixing/Dense_0/kernel")} is not finite',
  ):
    assert part in text
  assert text.count(';') == 7


def test_an_infinity_that_another_cancels_is_found(tmp_path):
  weights = arrays('modern')
  weights['head/bias'][:2] = np.inf, -np.inf
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match='head/bias is not finite'):
    mixer_jax.load(tmp_path / 'w.npz')


def test_what_is_infinite_in_float32_is_found(tmp_path):
  weights = {name: array.astype(np.float64) for name, array in arrays('modern').items()}
  weights['head/bias'][0] = 1e300
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match='head/bias is not finite'):
    mixer_jax.load(tmp_path / 'w.npz')


def test_params_that_are_there_twice_are_refused(tmp_path):
  weights = arrays('modern') | {f'params/{n}': a + 1 for n, a in arrays('modern').items()}
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match='is in it twice: also as params/'):
    mixer_jax.load(tmp_path / 'w.npz')


def test_huge_but_finite_weights_are_taken(tmp_path):
  weights = arrays('modern')
  weights['head/bias'][:] = 3e38
  write(tmp_path / 'w.npz', weights)
  assert mixer_jax.load(tmp_path / 'w.npz')[1]['head']['bias'][0] == np.float32(3e38)


def test_a_size_that_nothing_tells_is_a_letter(tmp_path):
  weights = {n: a for n, a in arrays('modern').items() if n != 'stem/kernel'}
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match=r'stem/kernel \(P, P, 3, 24\) is missing'):
    mixer_jax.load(tmp_path / 'w.npz')


def test_a_missing_block_is_missing_and_a_strange_number_is_strange(tmp_path):
  weights = {n: a for n, a in arrays('modern').items() if not n.startswith('MixerBlock_1/')}
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError) as error:
    mixer_jax.load(tmp_path / 'w.npz')
  assert str(error.value).count('is missing') == 12
  assert 'MixerBlock_1/LayerNorm_0/scale (24,) is missing' in str(error.value)
  weights = arrays('modern') | {'MixerBlock_999999/LayerNorm_0/scale': np.ones(24, np.float32)}
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError) as error:
    mixer_jax.load(tmp_path / 'w.npz')
  assert 'MixerBlock_999999/LayerNorm_0/scale (24,) is not part of a Mixer' in str(error.value)


def test_arrays_of_something_else_are_refused(tmp_path):
  write(tmp_path / 'w.npz', {'a': np.zeros(3)})
  with pytest.raises(UserError, match='not the weights of a Mixer, a ResNet or a ViT: it holds a'):
    mixer_jax.load(tmp_path / 'w.npz')
  weights = arrays('modern')
  for i in range(3):
    weights[f'MixerBlock_{i}/token_mixing/Dense_0/kernel'] = np.zeros((15, 12), np.float32)
    weights[f'MixerBlock_{i}/token_mixing/Dense_1/kernel'] = np.zeros((12, 15), np.float32)
    weights[f'MixerBlock_{i}/token_mixing/Dense_1/bias'] = np.zeros(15, np.float32)
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match='15 tokens do not fill a square image'):
    mixer_jax.load(tmp_path / 'w.npz')
  for i in range(3):
    weights[f'MixerBlock_{i}/token_mixing/Dense_0/kernel'] = np.zeros((0, 0), np.float32)
  write(tmp_path / 'w.npz', weights)
  with pytest.raises(UserError, match='has shape'):
    mixer_jax.load(tmp_path / 'w.npz')


def test_what_cannot_be_saved_leaves_no_file(tmp_path):
  config, params = mixer_jax.load(FILES['modern'])
  for path, layout, message in (
    ('w.npz', 'legacy', "no layout 'legacy' to write: there are modern, timm"),
    ('w.npz', 'timm', r'weights are written as \*\.npz \(modern\), \*\.safetensors \(timm\)'),
    ('w.pth', None, r'weights are written as'),
  ):
    with pytest.raises(UserError, match=message):
      mixer_jax.save(tmp_path / path, config, params, layout)
  with pytest.raises(UserError, match=r'was not written: head/kernel has shape'):
    mixer_jax.save(tmp_path / 'w.npz', dataclasses.replace(config, num_classes=3), params)
  broken = {**params, 'head': {**params['head'], 'bias': np.full(7, np.nan, np.float32)}}
  with pytest.raises(UserError, match='head/bias is not finite'):
    mixer_jax.save(tmp_path / 'w.npz', config, broken)
  assert not list(tmp_path.iterdir())


def test_a_written_file_may_be_read_by_all_that_the_mask_allows(tmp_path):
  config, params = mixer_jax.load(FILES['modern'])
  for name in ('w.npz', 'w.safetensors'):
    mixer_jax.save(tmp_path / name, config, params)
  (tmp_path / 'other').write_text('')
  modes = {path.stat().st_mode for path in tmp_path.iterdir()}
  assert len(modes) == 1


@pytest.mark.parametrize('name', ['w.npz', 'w.safetensors'])
def test_a_full_disk_is_told_and_leaves_nothing(tmp_path, name):
  code = f"""
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
import mixer_jax
try:
  mixer_jax.save({str(tmp_path / name)!r}, *mixer_jax.load({str(FILES['modern'])!r}))
except mixer_jax.UserError as error:
  print(error)
"""
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
  assert f'{name} was not written: ' in done.stdout
  assert 'File too large' in done.stdout
  assert not list(tmp_path.iterdir())


def test_a_path_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='no weights file'):
    mixer_jax.load(tmp_path / 'none.npz')
  with pytest.raises(UserError, match='name a workdir, one of its steps, an'):
    mixer_jax.load(tmp_path / 'none')
  with pytest.raises(UserError, match='holds no checkpoint'):
    mixer_jax.load(tmp_path)
  (tmp_path / 'folder.npz').mkdir()
  with pytest.raises(UserError, match='holds no checkpoint'):
    mixer_jax.load(tmp_path / 'folder.npz')


def test_a_checkpoint_grows_and_gets_a_new_head():
  config, params = mixer_jax.load(FILES['timm'], image_size=64, num_classes=3)
  assert (config.image_size, config.num_classes, config.tokens_mlp_dim) == (64, 3, 48)
  images = np.zeros((1, 64, 64, 3), np.float32)
  np.testing.assert_array_equal(mixer_jax.apply(config, params, images), np.zeros((1, 3)))
