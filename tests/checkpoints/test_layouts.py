"""Reading published .npz files: the config off the arrays, and every fault in one line."""

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest

import mixer_jax
from mixer_jax.checkpoints.layouts import flatten, unflatten
from mixer_jax.errors import UserError
from tests import reference

GOLDEN = reference.DATA / 'mixer_tiny.npz'


def arrays() -> dict[str, np.ndarray]:
  with np.load(GOLDEN) as file:
    return dict(file)


def write(path, weights: dict) -> None:
  """An .npz file of these arrays."""
  np.savez(path, **weights)  # pyright: ignore[reportArgumentType]


def test_the_config_is_read_off_the_arrays_and_the_bits_stay():
  config, params = mixer_jax.load(GOLDEN)
  assert config == reference.golden()[0]
  found = flatten(params)
  assert found.keys() == arrays().keys()
  for name, array in arrays().items():
    assert found[name].dtype == np.float32
    np.testing.assert_array_equal(found[name], array)


@pytest.mark.parametrize('name', ['S/32', 'B/16'])
def test_a_file_of_a_paper_variant_is_recognised(tmp_path, name):
  shapes = flatten(mixer_jax.models.shapes(mixer_jax.VARIANTS[name]))
  path = tmp_path / 'weights.npz'
  write(path, {n: np.zeros(leaf.shape, np.float32) for n, leaf in shapes.items()})
  assert mixer_jax.load(path)[0] == mixer_jax.VARIANTS[name]


def test_all_faults_are_told_at_once(tmp_path):
  weights = arrays()
  del weights['MixerBlock_1/LayerNorm_0/scale']
  weights['head/bias'] = np.zeros(9, np.float32)
  weights['extra/kernel'] = np.zeros(3, np.float32)
  weights['stem/bias'] = weights['stem/bias'].astype(np.int32)
  weights['stem/kernel'][0, 0, 0, 0] = np.nan
  path = tmp_path / 'weights.npz'
  write(path, weights)
  with pytest.raises(UserError) as error:
    mixer_jax.load(path)
  for part in (
    'MixerBlock_1/LayerNorm_0/scale is missing',
    'extra/kernel is not part of a Mixer',
    'head/bias has shape (9,), expected (7,)',
    'stem/bias holds int32, expected floats',
    'stem/kernel is not finite',
    str(path),
  ):
    assert part in str(error.value)


def damaged(kind: str) -> bytes:
  whole = GOLDEN.read_bytes()
  return {
    'empty': b'',
    'text': b'no weights',
    'cut': whole[: len(whole) // 2],
    'flipped': whole[:5000] + bytes([whole[5000] ^ 1]) + whole[5001:],
    'pickle': pickle.dumps({'stem': 1}),
  }[kind]


@pytest.mark.parametrize('kind', ['empty', 'text', 'cut', 'flipped', 'pickle'])
def test_files_that_are_no_archives_are_refused(tmp_path, kind):
  path = tmp_path / 'weights.npz'
  path.write_bytes(damaged(kind))
  with pytest.raises(UserError, match=r'weights\.npz'):
    mixer_jax.load(path)


def test_a_pickled_array_is_never_unpickled(tmp_path):
  path = tmp_path / 'weights.npz'
  np.savez(path, allow_pickle=True, **{'stem/kernel': np.array([{}], object)})
  with pytest.raises(UserError, match='Object arrays cannot be loaded'):
    mixer_jax.load(path)


def test_archives_of_something_else_are_refused(tmp_path):
  path = tmp_path / 'weights.npz'
  np.savez(path, a=np.zeros(3))
  with pytest.raises(UserError, match='not the weights of a Mixer'):
    mixer_jax.load(path)
  with zipfile.ZipFile(path, 'w') as archive:
    archive.writestr('readme.txt', 'hello')
  with pytest.raises(UserError, match=r'weights\.npz'):
    mixer_jax.load(path)
  weights = arrays()
  for i in range(3):
    weights[f'MixerBlock_{i}/token_mixing/Dense_0/kernel'] = np.zeros((15, 12), np.float32)
  write(path, weights)
  with pytest.raises(UserError, match='15 tokens do not fill a square image'):
    mixer_jax.load(path)


def test_a_path_that_is_not_there(tmp_path):
  with pytest.raises(UserError, match='no weights file'):
    mixer_jax.load(tmp_path / 'none.npz')
  with pytest.raises(UserError, match='name a workdir, one of its steps, or an'):
    mixer_jax.load(tmp_path / 'none')
  with pytest.raises(UserError, match='holds no checkpoint'):
    mixer_jax.load(tmp_path)


def test_flatten_and_unflatten_are_inverse():
  flat = {'a/b/c': np.zeros(1), 'a/d': np.ones(2), 'e': np.ones(3)}
  assert flatten(unflatten(flat)).keys() == flat.keys()


def test_loaded_weights_run():
  config, params = mixer_jax.load(GOLDEN)
  _, _, expected = reference.golden()
  assert dataclasses.asdict(config)['num_classes'] == 7
  np.testing.assert_allclose(
    mixer_jax.apply(config, params, expected['images']), expected['logits'], atol=1e-5
  )
