"""Paths as users write them: local, `file://…`, or in a bucket."""

import contextlib
import os
import pathlib
import re
import uuid
from collections.abc import Iterator
from typing import IO

from etils import epath

from mixer_jax.errors import UserError, one_line

CACHE_SETTING = 'MIXER_JAX_CACHE'
"""Variable that names the cache folder; default: mixer_jax in $XDG_CACHE_HOME or ~/.cache."""

BUCKETS = ('gs://', 's3://', 'az://')

_SLASH_LOST = re.compile('(gs|s3|az|https?):/?(?=[^/])')
"""The begin of an address that a shell, `os.path.normpath` or a hand took a slash of."""


def cache_folder() -> pathlib.Path:
  """Return the folder of downloaded files and computed plans; it may not exist yet."""
  default = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'mixer_jax'
  chosen = re.sub('^file:(//|(?=/[^/]))', '', os.environ.get(CACHE_SETTING) or str(default))
  if is_remote(chosen) or _SLASH_LOST.match(chosen):
    raise UserError(f'{CACHE_SETTING}={chosen}: name a folder of this machine')
  return pathlib.Path(chosen).expanduser()


def user_path(text) -> epath.Path:
  """Return the path that a user wrote: local, `file://…` or in a bucket.

  Raises:
    UserError: an address of another kind, or its client is not installed.
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
      path.exists()  # an unreachable bucket fails here, before any work is done
  except ImportError as error:
    raise UserError(f'{name}: {one_line(error)}') from error
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
    OSError: the disk or folder refuses; an earlier file stays as it was.
  """
  path = epath.Path(path)
  aside = path.parent / f'.{path.name}.{uuid.uuid4().hex}.tmp'
  try:
    with aside.open('wb') as file:
      yield file
    aside.replace(path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise


def write_whole(path, data: bytes | str) -> None:
  """Write a file completely or not at all; see `open_whole`."""
  with open_whole(path) as file:
    file.write(data.encode() if isinstance(data, str) else data)
