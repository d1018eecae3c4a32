"""Errors of reading are no damage; damage of the best state; files that are no files."""

import errno
import gc
import logging
import os
import shutil

import pytest

import mixer_jax
from mixer_jax.checkpoints import state_files
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import StorageError, UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.storage import RETRY_SETTING
from tests.checkpoints.test_store import (
  METADATA,
  abstract,
  assert_same,
  damage,
  data_files,
  host_parts,
  parts,
  saved,
)

# Of several reads that fail at once Orbax awaits one; asyncio complains of the others.
pytestmark = pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')

MESSAGES = {
  'EIO': 'Error reading "params/d/x": Input/output error [OS error 5: EIO]',
  'ESTALE': 'Error opening "zarr3" driver: Stale file handle',
  'EACCES': 'Failed to open file: Permission denied',
  '401': 'UNAUTHENTICATED: Error reading "gs://bucket/x": HTTP response code: 401',
  '403': 'PERMISSION_DENIED: Error reading "gs://bucket/x": HTTP response code: 403',
  '503': 'UNAVAILABLE: Error reading "gs://bucket/x": HTTP response code: 503',
}


def failing_load(monkeypatch, times: int, message: str) -> None:
  """Make Orbax's next loads of step 20 fail with what TensorStore says."""
  load, left = state_files.ocp.load_checkpointables, [times]

  def fail(path, abstract):
    if path.name == '20' and left[0]:
      left[0] -= 1
      raise ValueError(f'Failed to load checkpointable: params\n{message}')
    return load(path, abstract)

  monkeypatch.setattr(state_files.ocp, 'load_checkpointables', fail)


@pytest.fixture(scope='module')
def origin(tmp_path_factory):
  """The folder of a run with states of steps 10 and 20."""
  folder = tmp_path_factory.mktemp('origin')
  saved(folder)
  return folder


@pytest.fixture
def run(origin, tmp_path):
  """A copy of that folder."""
  return shutil.copytree(origin, tmp_path / 'run')


def restored_step(run) -> int:
  restored = Store(run, keep=3).restore(abstract(meshes.make_mesh()))
  assert restored is not None
  return restored[0]


def test_a_passing_error_of_reading_is_no_damage(run, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '5')
  failing_load(monkeypatch, 2, MESSAGES['EIO'])
  assert restored_step(run) == 20


def test_an_error_that_has_passed_and_was_not_recognised_is_no_damage(run, monkeypatch):
  failing_load(monkeypatch, 1, 'an error of a new kind')
  assert restored_step(run) == 20


@pytest.mark.parametrize('kind', MESSAGES)
def test_an_error_of_reading_that_stays_is_a_storage_error(run, monkeypatch, kind):
  monkeypatch.setenv(RETRY_SETTING, '0')
  failing_load(monkeypatch, 99, MESSAGES[kind])
  store = Store(run, keep=3)
  with pytest.raises(StorageError, match='20 cannot be read now'):
    store.restore(abstract(meshes.make_mesh()))
  assert store.steps() == [10, 20]


@pytest.mark.parametrize('name', ['_CHECKPOINT_METADATA', 'd'])
def test_a_file_that_cannot_be_opened_is_no_damage(run, monkeypatch, name):
  """Orbax says that it is missing; only the system's own error tells."""
  monkeypatch.setenv(RETRY_SETTING, '0')
  store = Store(run, keep=3)
  file = store.directory / '20' / name if name != 'd' else data_files(store.directory / '20')[-1]
  opened = type(store.directory).open

  def refuse(path, *args, **kwargs):
    if os.fspath(path) == os.fspath(file):
      raise PermissionError(errno.EACCES, 'Permission denied', os.fspath(path))
    return opened(path, *args, **kwargs)

  monkeypatch.setattr(type(store.directory), 'open', refuse)
  if name == 'd':
    failing_load(monkeypatch, 99, 'it was not found')
  for read in (lambda: store.restore(abstract(meshes.make_mesh())), lambda: mixer_jax.load(run)):
    with pytest.raises(StorageError, match=r'20.* cannot be read now: Permission denied'):
      read()
  assert store.steps() == [10, 20]


def test_a_folder_that_cannot_be_listed_is_not_a_new_run(run, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0')
  store = Store(run, keep=3)

  def refuse(path):
    raise OSError(errno.ESTALE, 'Stale file handle')

  monkeypatch.setattr(type(store.directory), 'iterdir', refuse)
  with pytest.raises(StorageError, match='Stale file handle'):
    store.restore(abstract(meshes.make_mesh()))


@pytest.mark.parametrize('kind', ['pipe', 'device'])
@pytest.mark.parametrize('place', ['_CHECKPOINT_METADATA', 'params/d/x'])
def test_a_pipe_or_device_in_a_state_is_damage(run, kind, place):
  file = run / 'checkpoints' / '20' / place
  file.unlink(missing_ok=True)
  if kind == 'pipe':
    os.mkfifo(file)
  else:
    file.symlink_to('/dev/zero')
  with pytest.raises(UserError, match=r'20 is damaged .*is not a regular file'):
    mixer_jax.load(run / 'checkpoints' / '20')
  assert restored_step(run) == 10


def test_an_old_state_that_cannot_be_removed_is_a_warning(run, monkeypatch, caplog):
  store = Store(run, keep=1)
  removed = type(store.directory).rmtree

  def refuse(path, *args, **kwargs):
    if path.name == '10':
      raise OSError(errno.EBUSY, 'Device or resource busy')
    return removed(path, *args, **kwargs)

  monkeypatch.setattr(type(store.directory), 'rmtree', refuse)
  with caplog.at_level(logging.WARNING):
    store.save(30, parts(meshes.make_mesh()), METADATA)
    store.wait()
  assert 'an old state was not removed' in caplog.text
  assert 'Device or resource busy' in caplog.text


def test_a_folder_of_states_that_was_removed_is_said(run):
  store = Store(run, keep=3)
  shutil.rmtree(run / 'checkpoints')
  said = 'there is no saved state, the same command starts at step 0'
  with pytest.raises(StorageError, match=said):
    store.save(30, parts(meshes.make_mesh()), METADATA)


def test_a_run_with_a_damaged_best_state_resumes_from_before_it(tmp_path, caplog):
  mesh = meshes.make_mesh()
  store = Store(tmp_path, keep=4)
  for step, best in ((10, 10), (20, 20), (30, 20), (40, 20)):
    store.save(step, parts(mesh, step), METADATA, best=best)
  store.wait()
  damage(store.directory / '20', 'flipped byte')
  with pytest.raises(StorageError, match=r'20 is damaged .*the same command resumes from a state'):
    store.read(20, {'params': abstract(mesh)['params']})
  assert restored_step(tmp_path) == 40  # a run that does not use it
  with caplog.at_level(logging.WARNING):
    restored = store.restore(abstract(mesh), with_best=True)
  assert restored is not None
  assert restored[0] == 10
  assert_same(restored[1], host_parts(10))
  assert 'checkpoints/40 is skipped: its best state' in caplog.text
  # Those that name it are intact: they are valid again when the run has arrived there.
  left = sorted(path.name for path in (tmp_path / 'checkpoints').iterdir())
  assert left == ['10', '20.damaged', '30', '40']
  assert store.restore(abstract(mesh), with_best=True) is not None


def test_a_state_whose_description_is_damaged_is_so_for_training_too(run, caplog):
  """Its arrays can be read by their names; `evaluate` would find none of them."""
  path = run / 'checkpoints' / '20' / 'params' / '_sharding'
  path.write_bytes(path.read_bytes().replace(b'{', b'[', 1))
  with caplog.at_level(logging.WARNING):
    assert restored_step(run) == 10
  assert 'its description and its digests differ in params/' in caplog.text


def test_a_run_with_nothing_before_a_damaged_best_state_says_so_before_it_trains(tmp_path):
  mesh = meshes.make_mesh()
  store = Store(tmp_path, keep=1)
  for step in (10, 20):
    store.save(step, parts(mesh, step), METADATA, best=10)
  store.wait()
  damage(store.directory / '10', 'flipped byte')
  with pytest.raises(UserError, match=r'the best state .* evaluate the newest, .*/20, or train'):
    store.restore(abstract(mesh), with_best=True)
  assert store.steps() == [10, 20]


@pytest.mark.parametrize('kind', ['manifests', 'arrays'])
def test_a_damaged_state_prints_no_traceback(run, kind, capfd):
  """TensorStore's threads print one for each read that ends after Orbax has closed its loop."""
  files = list(
    (run / 'checkpoints' / '20').rglob('manifest.ocdbt' if kind == 'manifests' else 'd/*')
  )
  assert files
  for file in files:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data if kind == 'manifests' else b'')
  assert restored_step(run) == 10
  gc.collect()
  said = capfd.readouterr().err
  assert 'Event loop is closed' not in said
  assert 'Traceback' not in said
