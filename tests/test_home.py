"""Users without a home directory, and homes that cannot be written."""

import logging
import os
import pathlib
import pwd

import pytest

from mixer_jax import home
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path


@pytest.fixture
def homeless(monkeypatch):
  """A user as `docker --user N` makes them: no HOME, no entry in the list of users."""

  def unknown(uid):
    raise KeyError(uid)

  for name in ('HOME', 'XDG_CACHE_HOME', 'MIXER_JAX_CACHE', 'TFDS_DATA_DIR'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setattr(pwd, 'getpwuid', unknown)


def test_the_cache_is_where_the_variables_say(homeless, monkeypatch):
  with pytest.raises(FileNotFoundError, match='no home directory'):
    home.cache_folder()
  monkeypatch.setenv('HOME', '/users/a')
  assert home.cache_folder() == pathlib.Path('/users/a/.cache/mixer_jax')
  monkeypatch.setenv('XDG_CACHE_HOME', '/cache')
  assert home.cache_folder() == pathlib.Path('/cache/mixer_jax')
  monkeypatch.setenv('MIXER_JAX_CACHE', '~/own')
  assert home.cache_folder() == pathlib.Path('/users/a/own')


def test_one_line_says_that_nothing_is_kept(homeless, caplog):
  for what in ('compiled programs', 'plans'):
    home.warn_uncached(what, PermissionError(13, 'Permission denied'))
  assert caplog.messages == [
    'compiled programs are not kept (Permission denied): MIXER_JAX_CACHE names a folder'
  ]


def test_data_sets_have_a_temporary_folder_if_home_cannot_have_them(homeless, monkeypatch):
  monkeypatch.setattr(home.tempfile, 'gettempdir', lambda: '/tmp')
  home.choose_data_folder()
  temporary = f'/tmp/mixer_jax-{os.getuid()}/tensorflow_datasets'
  assert os.environ['TFDS_DATA_DIR'] == temporary
  monkeypatch.setenv('TFDS_DATA_DIR', '/chosen')
  home.choose_data_folder()
  assert os.environ['TFDS_DATA_DIR'] == '/chosen'


def test_data_sets_stay_at_home_where_that_can_be_written(homeless, monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  home.choose_data_folder()
  assert 'TFDS_DATA_DIR' not in os.environ


def test_a_path_in_a_home_that_is_not_there_is_refused(homeless):
  with pytest.raises(UserError, match='~/run: this user has no home directory'):
    user_path('~/run')


def test_commands_work_without_a_home(homeless, monkeypatch, trained, digits_dir, tmp_path, caplog):
  from mixer_jax.__main__ import main
  from tests.helpers.console import restored_logging
  from tests.helpers.photos import encoded, photo

  monkeypatch.setenv('MIXER_JAX_COMPILED_GIB', '')
  picture = tmp_path / 'photo.png'
  picture.write_bytes(encoded(photo(32, 32), 'PNG'))
  commands = (['evaluate'], ['predict', str(picture)], ['cka', f'--output={tmp_path}/cka'])
  for command in commands:
    caplog.clear()
    with restored_logging():
      logging.getLogger().addHandler(caplog.handler)
      assert main([*command, f'--checkpoint={trained}']) == 0, command
    assert sum('not kept' in line for line in caplog.messages) <= 1
