"""Files are written completely or not at all."""

import pytest

from mixer_jax.errors import StorageError, UserError
from mixer_jax.home import cache_folder
from mixer_jax.paths import is_remote, open_whole, remove_unfinished, user_path, write_whole
from mixer_jax.storage import RETRY_SETTING


def test_a_file_is_replaced_in_one_step(tmp_path):
  write_whole(tmp_path / 'a.json', 'old')
  write_whole(tmp_path / 'a.json', b'new')
  assert (tmp_path / 'a.json').read_bytes() == b'new'
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
  from etils import epath

  write_whole(tmp_path / 'a.json', 'old')

  def fails(self, target):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(type(epath.Path(tmp_path)), 'replace', fails)
  monkeypatch.setenv(RETRY_SETTING, '0')
  with pytest.raises(StorageError, match=r'a\.json cannot be written now: No space'):
    write_whole(tmp_path / 'a.json', 'new')
  assert (tmp_path / 'a.json').read_text() == 'old'
  assert [path.name for path in tmp_path.iterdir()] == ['a.json']


def test_buckets_are_remote():
  assert is_remote('gs://bucket/run')
  assert not is_remote('/tmp/run')


def test_what_a_killed_writer_left_is_removed_and_nothing_else(tmp_path):
  with open_whole(tmp_path / 'b.json'):
    (left,) = (path.name for path in tmp_path.iterdir())
  for name in (left, '.own.tmp'):
    (tmp_path / name).touch()
  remove_unfinished(tmp_path)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['.own.tmp', 'b.json']


@pytest.mark.parametrize(
  'given', ['gs:/bucket/run', 'gs:bucket/run', 's3:/bucket/run', 'az:/b/run']
)
def test_an_address_that_lost_a_slash_is_no_folder(given, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  scheme = given[:2]
  with pytest.raises(UserError, match=f'{given} lacks a slash: write {scheme}://b'):
    user_path(given)
  (tmp_path / 'gs:').mkdir()  # by an earlier version, or on purpose
  assert str(user_path('gs:')) == 'gs:'


def test_a_file_may_have_an_address_of_either_kind():
  assert str(user_path('file:///a/b')) == str(user_path('file:/a/b')) == '/a/b'


@pytest.mark.parametrize('given', ['gs://bucket/cache', 'gs:/bucket/cache'])
def test_the_cache_is_a_folder_of_this_machine(given, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_CACHE', given)
  with pytest.raises(UserError, match=f'MIXER_JAX_CACHE={given}: name a folder'):
    cache_folder()
