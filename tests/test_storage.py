"""Errors of reading are retried, then exit code 74; errors of the place stay what they are."""

import errno
import os

import pytest

from mixer_jax.errors import StorageError, UserError, printable
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.storage import RETRY_SETTING, read_retried, write_retried, writing


def failing(times: int, error: OSError):
  left = [times]

  def read():
    if left[0]:
      left[0] -= 1
      raise error
    return b'read'

  return read


def test_a_passing_error_of_reading_is_retried(monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '5')
  assert read_retried('a file', failing(2, OSError(errno.EIO, 'Input/output error'))) == b'read'


def test_an_error_that_stays_is_a_storage_error_with_the_name(monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0.3')
  with pytest.raises(StorageError, match=r'^dog\.jpg cannot be read now: Stale file handle'):
    read_retried('dog.jpg', failing(99, OSError(errno.ESTALE, 'Stale file handle')))


def test_a_missing_file_is_not_retried():
  with pytest.raises(FileNotFoundError):
    read_retried('a file', failing(1, FileNotFoundError(errno.ENOENT, 'No such file')))


@pytest.mark.parametrize('number', [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS])
def test_a_disk_that_refuses_is_a_storage_error(number):
  with (
    pytest.raises(StorageError, match=r'^rows\.jsonl cannot be written now: '),
    writing('rows.jsonl'),
  ):
    raise OSError(number, 'no')


def test_a_disk_that_is_full_for_a_moment_is_retried(monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '5')
  write_retried('rows.jsonl', failing(2, OSError(errno.ENOSPC, 'No space left on device')))


@pytest.mark.parametrize(
  ('number', 'seconds', 'expected'),
  [(errno.ENOSPC, '0.3', StorageError), (errno.EROFS, '99', StorageError),
   (errno.EACCES, '99', PermissionError)],
)  # fmt: skip
def test_a_write_that_cannot_succeed_ends(monkeypatch, number, seconds, expected):
  monkeypatch.setenv(RETRY_SETTING, seconds)
  with pytest.raises(expected, match='no'):
    write_retried('rows.jsonl', failing(99, OSError(number, 'no')))


def test_a_wrong_place_is_not():
  with pytest.raises(PermissionError), writing('rows.jsonl'):
    raise OSError(errno.EACCES, 'Permission denied')


def test_control_characters_and_bytes_that_are_no_text_are_escaped():
  assert printable('caf\udce9 \x1b[31m 花 ü') == r'caf\xe9 \x1b[31m 花 ü'


def test_a_pipe_as_metrics_file_does_not_block(tmp_path):
  os.mkfifo(tmp_path / 'metrics.jsonl')
  with pytest.raises(UserError, match=r'metrics\.jsonl is not a regular file'):
    read_metrics(tmp_path)


def test_a_name_that_is_too_long_is_not_tried_again(tmp_path):
  with pytest.raises(OSError, match='File name too long'):
    read_metrics(tmp_path / ('a' * 300))
