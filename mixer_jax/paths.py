"""Paths as users write them: local, `file://…`, or in a bucket."""

import contextlib
import errno
import os
import pathlib
import re
import uuid
from collections.abc import Iterator
from typing import IO

from etils import epath

from mixer_jax import storage
from mixer_jax.errors import UserError, one_line

BUCKETS = ('gs://', 's3://', 'az://')

_PACKAGE = pathlib.Path(__file__).parent

_SLASH_LOST = re.compile('(gs|s3|az|https?):/?(?=[^/])')
"""The begin of an address that a shell, `os.path.normpath` or a hand took a slash of."""

_ASIDE = re.compile(r'\..+\.[0-9a-f]{32}\.tmp')


def experiments_folder() -> pathlib.Path:
  """Return the folder with the `configs/` of this package: in a checkout beside it, else in it."""
  installed = _PACKAGE / 'experiments'
  return installed if installed.is_dir() else _PACKAGE.parent


def user_path(text) -> epath.Path:
  """Return the path that a user wrote: local, `file://…` or in a bucket.

  Raises:
    UserError: an address of another kind, or its client is not installed.
    StorageError: a bucket does not answer, or refuses to.
  """
  name = os.fspath(text)
  name = re.sub('^file:(//|(?=/[^/]))', '', name)
  scheme, separator, _ = name.partition('://')
  if separator and f'{scheme}://' not in BUCKETS:
    raise UserError(f'{name}: files cannot be read from {scheme}://, only from folders and gs://')
  if (lost := _SLASH_LOST.match(name)) and not os.path.lexists(name):
    raise UserError(f'{name} lacks a slash: write {lost[1]}://{name[lost.end() :]}')
  try:
    path = epath.Path(name).expanduser()
    if separator:
      storage.exists(path)  # an unreachable bucket fails here, before any work is done
  except ImportError as error:
    raise UserError(f'{name}: {one_line(error)}') from error
  if name.startswith('~/') and str(path).startswith('~/'):
    raise UserError(f'{name}: this user has no home directory: name another path')
  return path


def is_remote(path) -> bool:
  """Return True for a path in a bucket, such as gs://bucket/folder."""
  return '://' in str(path)


def is_regular(path: epath.Path) -> bool:
  """Return True for a regular file: not a folder, pipe or device. All files in a bucket are."""
  return is_remote(path) or os.path.isfile(path)


@contextlib.contextmanager
def open_whole(path) -> Iterator[IO[bytes]]:
  """Open a file that appears completely or not at all: written next to it, then renamed.

  Several processes may write the same file; the last one to finish wins.

  Raises:
    StorageError: the disk or bucket refuses; an earlier file stays as it was.
    OSError: the place is wrong, see `storage.writing`.
  """
  with storage.writing(path), _opened_aside(epath.Path(path)) as file:
    yield file


def write_whole(path, data: bytes | str) -> None:
  """Write a file completely or not at all, see `open_whole`; a disk that is full is retried."""

  def write() -> None:
    with _opened_aside(epath.Path(path)) as file:
      file.write(data.encode() if isinstance(data, str) else data)

  storage.write_retried(path, write)


def remove_unfinished(folder) -> None:
  """Remove what writers of complete files left in a local folder when they were killed.

  No other process may be writing there.
  """
  if not is_remote(folder):
    for entry in pathlib.Path(folder).glob('.*.tmp'):
      if _ASIDE.fullmatch(entry.name):
        entry.unlink(missing_ok=True)


@contextlib.contextmanager
def _opened_aside(path: epath.Path) -> Iterator[IO[bytes]]:
  aside = path.parent / f'.{path.name}.{uuid.uuid4().hex}.tmp'
  try:
    with aside.open('wb') as file:
      yield file
    aside.replace(path)
  except BaseException:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)
    raise


def create_whole(path, data: bytes | str) -> None:
  """Write a new file completely or not at all, also if several processes try it at once.

  Raises:
    FileExistsError: there is one; it stays as it was.
    StorageError, OSError: as `open_whole`.
  """
  path, data = epath.Path(path), data.encode() if isinstance(data, str) else data
  with storage.writing(path):
    if is_remote(path):
      from etils.epath import backend

      try:
        backend.fsspec_backend.fs(path).pipe_file(str(path), data, mode='create')
      except FileExistsError as error:
        raise _exists(path) from error
    else:
      _create_local(pathlib.Path(path), data)


def _create_local(path: pathlib.Path, data: bytes) -> None:
  aside = path.parent / f'.{path.name}.{uuid.uuid4().hex}.tmp'
  try:
    aside.write_bytes(data)
    try:
      os.link(aside, path)
    except FileExistsError:
      raise
    except OSError:  # a file system without links
      if path.exists():
        raise _exists(path) from None
      aside.replace(path)
  finally:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)


def _exists(path) -> FileExistsError:
  return FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
