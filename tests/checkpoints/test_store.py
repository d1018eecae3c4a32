"""States: saved whole or not at all, verified when restored, on any mesh."""

import functools
import logging
import os
import pathlib
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mixer_jax
from mixer_jax import checkpoints
from mixer_jax.checkpoints.run_states import read_params
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from tests.helpers import factories

# Of several reads that fail at once Orbax awaits one; asyncio complains of the others.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

CONFIG = factories.tiny_mixer(
  num_blocks=1,
  hidden_dim=64,
  channels_mlp_dim=256,  # arrays that Orbax does not check itself
  num_classes=5,
)
ADAM = optax.adam(1e-3)
METADATA = {'model': CONFIG.__dict__, 'classes': list('abcde')}


@functools.cache
def host_parts(seed):
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  state = steps.init_state(CONFIG, ADAM, mesh, seed)
  return jax.device_get({'params': state.params, 'optimizer': state.opt_state})


def parts(mesh, seed=0):
  return meshes.put_replicated(mesh, host_parts(seed))


def abstract(mesh):
  state = steps.abstract_state(CONFIG, ADAM, mesh)
  return {'params': state.params, 'optimizer': state.opt_state}


def saved(tmp_path, *, keep=3, seeds=(1, 2)) -> Store:
  """A store with a state of each seed, at steps 10, 20, …"""
  store = Store(tmp_path, keep=keep)
  for i, seed in enumerate(seeds, 1):
    store.save(10 * i, parts(meshes.make_mesh(), seed), METADATA)
  store.wait()
  return store


def assert_same(a, b):
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(a), jax.device_get(b))


def test_what_is_saved_comes_back_on_any_mesh(tmp_path):
  saved(tmp_path)
  for mesh in (meshes.make_mesh(2, 2, 2), meshes.make_mesh(devices=jax.devices()[:1])):
    restored = Store(tmp_path, keep=3).restore(abstract(mesh))
    assert restored is not None
    step, found = restored
    assert step == 20
    assert_same(found, parts(meshes.make_mesh(), 2))
    wanted = jax.tree.map(lambda leaf: leaf.sharding, abstract(mesh))
    assert jax.tree.map(lambda leaf: leaf.sharding, found) == wanted


def test_paths_may_be_relative(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  store = saved(pathlib.Path('run'), seeds=(1,))
  assert store.restore(abstract(meshes.make_mesh())) is not None
  for path in ('run', 'run/checkpoints/10', 'run/checkpoints'):
    assert_same(mixer_jax.load(path)[1], host_parts(1)['params'])


def test_a_new_run_has_nothing_to_restore(tmp_path):
  assert Store(tmp_path, keep=1).restore(abstract(meshes.make_mesh())) is None


def test_the_state_may_be_donated_once_save_returns(tmp_path):
  mesh = meshes.make_mesh()
  store, state = Store(tmp_path, keep=9), parts(mesh)
  scramble = jax.jit(lambda t: jax.tree.map(lambda x: x * 0 - 7, t), donate_argnums=0)
  wanted = jax.device_get(state)
  for step in range(1, 6):
    store.save(step, state, METADATA)
    scramble(state)
    state = parts(mesh)
  store.wait()
  for step in range(1, 6):
    found = read_params(tmp_path / 'checkpoints' / str(step))[1]
    assert_same(found, wanted['params'])


def test_only_the_newest_are_kept(tmp_path):
  assert saved(tmp_path, keep=2, seeds=(1, 2, 3, 4)).steps() == [30, 40]


def test_a_state_that_is_not_finite_is_not_written(tmp_path):
  store = saved(tmp_path)
  broken = parts(meshes.make_mesh())
  broken['params']['head']['bias'] = broken['params']['head']['bias'].at[2].set(jnp.nan)
  with pytest.raises(UserError, match=r'step 30 is not finite \(first: params/head/bias\)'):
    store.save(30, broken, METADATA)
  assert store.steps() == [10, 20]


def files(folder) -> list[pathlib.Path]:
  found = pathlib.Path(os.fspath(folder)).rglob('*')
  return [path for path in found if path.is_file()]


def data_files(step) -> list[pathlib.Path]:
  return sorted(
    (path for path in files(step) if path.parent.name == 'd'),
    key=lambda path: path.stat().st_size,
  )


def damage(step, how: str):
  """Breaks a step's folder in one of the ways that were seen."""
  largest = data_files(step)[-1]
  if how == 'flipped byte':
    whole = bytearray(largest.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    largest.write_bytes(whole)
  elif how == 'lost data':
    largest.unlink()
  elif how == 'cut data':
    largest.write_bytes(largest.read_bytes()[:100])
  elif how == 'lost metadata':
    (step / '_CHECKPOINT_METADATA').unlink()
  elif how == 'garbled metadata':
    (step / '_CHECKPOINT_METADATA').write_text('{"custom_metadata": ')
  elif how == 'lost part':
    (step / 'optimizer').rmtree()
  elif how == 'empty folder':
    (step.parent / '30').mkdir()


HOW = ['flipped byte', 'lost data', 'cut data', 'lost metadata', 'garbled metadata', 'lost part',
       'empty folder']  # fmt: skip


@pytest.mark.parametrize('how', HOW)
def test_a_damaged_newest_state_is_named_and_the_one_before_is_used(tmp_path, caplog, how):
  seeds = (1, 2) if how != 'empty folder' else (3, 1)
  store = saved(tmp_path, seeds=seeds)
  damage(store.directory / '20', how)
  bad = '30' if how == 'empty folder' else '20'
  with caplog.at_level(logging.WARNING):
    restored = Store(tmp_path, keep=3).restore(abstract(meshes.make_mesh()))
  assert restored is not None
  step, found = restored
  assert step == (20 if how == 'empty folder' else 10)
  assert_same(found, parts(meshes.make_mesh(), 1))
  assert f'checkpoints/{bad} is damaged' in caplog.text
  # It is out of the way of the run that goes on, but not gone.
  assert (store.directory / f'{bad}.damaged').exists()
  again = Store(tmp_path, keep=3)
  assert int(bad) not in again.steps()
  again.save(int(bad), parts(meshes.make_mesh(), 5), METADATA)
  again.wait()
  restored = again.restore(abstract(meshes.make_mesh()))
  assert restored is not None
  assert restored[0] == int(bad)


def test_load_reads_the_newest_whole_state_and_moves_nothing(tmp_path, caplog):
  store = saved(tmp_path)
  config, params = mixer_jax.load(tmp_path)
  assert config == CONFIG
  assert_same(params, parts(meshes.make_mesh(), 2)['params'])
  assert_same(mixer_jax.load(store.directory / '10')[1], parts(meshes.make_mesh(), 1)['params'])
  damage(store.directory / '20', 'flipped byte')
  assert_same(mixer_jax.load(tmp_path)[1], parts(meshes.make_mesh(), 1)['params'])
  assert store.steps() == [10, 20]
  with pytest.raises(UserError, match=r'no state in .*20 is intact; the newest: .* is damaged'):
    mixer_jax.load(store.directory / '20')
  assert 'not the bits that were saved' in caplog.text


def test_states_that_are_all_damaged_stop_the_run_and_stay(tmp_path):
  store = saved(tmp_path)
  for step in ('10', '20'):
    damage(store.directory / step, 'flipped byte')
  with pytest.raises(UserError, match=r'every state in .* is damaged: take another --workdir'):
    store.restore(abstract(meshes.make_mesh()))
  assert store.steps() == [10, 20]


def test_a_first_save_that_was_never_finished_begins_anew(tmp_path):
  store = saved(tmp_path, seeds=(1,))
  damage(store.directory / '10', 'lost metadata')
  assert store.restore(abstract(meshes.make_mesh())) is None
  assert store.steps() == []


def test_a_state_under_another_number_or_with_other_metadata_is_damaged(tmp_path, caplog):
  store = saved(tmp_path)
  shutil.copytree(store.directory / '20', store.directory / '40')
  metadata = store.directory / '20' / '_CHECKPOINT_METADATA'
  metadata.write_text(metadata.read_text().replace('"num_blocks": 1', '"num_blocks": 2'))
  restored = store.restore(abstract(meshes.make_mesh()))
  assert restored is not None
  assert restored[0] == 10
  assert '40 is damaged (it is the state of step 20)' in caplog.text
  assert '20 is damaged (its metadata is not what was saved)' in caplog.text


def test_strange_names_are_no_steps(tmp_path):
  store = saved(tmp_path)
  for name in ('0070', '²', '-3', 'x'):
    (store.directory / name).mkdir()
  assert store.steps() == [10, 20]


def test_leavings_of_a_killed_save_are_cleared(tmp_path):
  store = saved(tmp_path)
  leaving = store.directory / '30.orbax-checkpoint-tmp-1'
  leaving.mkdir()
  (leaving / 'part').write_bytes(b'x')
  assert Store(tmp_path, keep=3).steps() == [10, 20]
  assert not leaving.exists()


def test_a_disk_that_refuses_is_one_clear_line(tmp_path):
  store = Store(tmp_path, keep=3)
  (tmp_path / 'checkpoints').rmdir()
  (tmp_path / 'checkpoints').write_text('a file is in the way')
  state = parts(meshes.make_mesh())
  with pytest.raises(UserError, match='state of step 1 could not be written to') as error:
    store.save(1, state, METADATA)
  assert '\n' not in str(error.value)


def test_the_best_state_is_kept_as_long_as_a_kept_state_names_it(tmp_path):
  store, state = Store(tmp_path, keep=2), parts(meshes.make_mesh())
  kept = {}
  for step, best in ((10, 10), (20, 10), (30, 10), (40, 40), (50, 40), (60, 40)):
    if step == 50:  # another start of the run knows no more than the folder
      store = Store(tmp_path, keep=2)
    store.save(step, state, METADATA, best=best)
    store.wait()
    kept[step] = store.steps()
  # If the state of step 40 were lost, the run would go on from that of 30, whose best is 10.
  assert kept == {
    10: [10], 20: [10, 20], 30: [10, 20, 30], 40: [10, 30, 40], 50: [40, 50], 60: [40, 50, 60],
  }  # fmt: skip


def test_a_workdir_is_its_best_state_where_the_run_keeps_one(tmp_path, caplog):
  store = Store(tmp_path / 'run', keep=1)
  for step, best, seed in ((10, 10, 1), (20, 10, 2)):
    store.save(step, parts(meshes.make_mesh(), seed), METADATA, best=best)
  store.wait()
  caplog.set_level('INFO')
  for name, seed in {'': 1, 'checkpoints': 1, 'best': 1, '10': 1, 'newest': 2, '20': 2}.items():
    read = checkpoints.read(tmp_path / 'run' / name)
    assert_same(read.params, host_parts(seed)['params'])
    assert read.file == str(store.directory / str(10 * seed))
  run = tmp_path / 'run'
  assert f'{run}: step 10, its best state; {run}/newest is its newest' in caplog.text
  found = store.read(10, {'params': abstract(meshes.make_mesh())['params']})
  assert_same(found, {'params': host_parts(1)['params']})
  damage(store.directory / '20', 'garbled metadata')
  assert_same(mixer_jax.load(tmp_path / 'run' / 'best')[1], host_parts(1)['params'])
  assert '20 is damaged' in caplog.text
  assert_same(mixer_jax.load(tmp_path / 'run')[1], host_parts(1)['params'])
  damage(store.directory / '10', 'flipped byte')
  store.save(30, parts(meshes.make_mesh(), 3), METADATA, best=10)
  store.wait()
  with pytest.raises(UserError, match=r'no best state of .*10 is damaged .*; .*/newest is its'):
    mixer_jax.load(tmp_path / 'run')
  assert_same(mixer_jax.load(tmp_path / 'run' / 'newest')[1], host_parts(3)['params'])
  with pytest.raises(UserError, match=r'10 is intact; the newest: .*10 is damaged'):
    mixer_jax.load(tmp_path / 'run' / 'best')
  with pytest.raises(UserError, match=r'10 is damaged .*: the same command resumes'):
    store.read(10, {'params': abstract(meshes.make_mesh())['params']})


def test_a_run_without_a_best_state_says_how_to_keep_it(tmp_path):
  saved(tmp_path / 'run')
  with pytest.raises(UserError, match=r'run keeps no best state: train with --config.keep_best='):
    mixer_jax.load(tmp_path / 'run' / 'best')
  with pytest.raises(UserError, match=r'no checkpoint .*/best: name a workdir'):
    mixer_jax.load(tmp_path / 'best')
