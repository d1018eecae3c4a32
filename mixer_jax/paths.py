"""Paths as users write them: local, `file://…`, or in a bucket."""

import os
import pathlib

from etils import epath

from mixer_jax.errors import UserError, one_line

CACHE_SETTING = 'MIXER_JAX_CACHE'
"""Folder of what is kept between commands; by default mixer_jax in $XDG_CACHE_HOME or ~/.cache."""

_BUCKETS = ('gs://', 's3://', 'az://')


def cache_folder() -> pathlib.Path:
  """Where downloaded files and computed plans are kept; it need not exist yet."""
  default = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'mixer_jax'
  return pathlib.Path(os.environ.get(CACHE_SETTING) or default).expanduser()


def user_path(text) -> epath.Path:
  """The path that a user means.

  Raises:
    UserError: an address of a kind that is not read from, or whose client is not
      installed.
  """
  name = os.fspath(text)
  if name.startswith('file://'):
    name = name.removeprefix('file://')
  scheme, separator, _ = name.partition('://')
  if separator and f'{scheme}://' not in _BUCKETS:
    raise UserError(f'{name}: no files are read from {scheme}://, only from folders and gs://')
  try:
    path = epath.Path(name).expanduser()
    if separator:
      path.exists()  # now, and not in the middle of something, it shows whether it can be reached
  except ImportError as error:
    raise UserError(f'{name}: {one_line(error)}') from error
  return path


def is_remote(path) -> bool:
  """Return True for a path in a bucket, such as gs://bucket/folder."""
  return '://' in str(path)


def is_regular(path: epath.Path) -> bool:
  """Return True for a regular file: no folder, pipe or device. In a bucket all files are."""
  return is_remote(path) or os.path.isfile(path)


def write_whole(path, data: bytes | str) -> None:
  """Writes a file completely or not at all: next to it, then renamed into place.

  Raises:
    OSError: the disk or folder refuses; what was there before stays.
  """
  path = epath.Path(path)
  aside = path.parent / f'{path.name}.tmp'
  try:
    aside.write_bytes(data.encode() if isinstance(data, str) else data)
    aside.replace(path)
  except BaseException:
    aside.unlink(missing_ok=True)
    raise
