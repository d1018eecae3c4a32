"""Errors of a data set that TFDS has prepared: not readable now, damaged, or of another version.

TFDS raises the same errors for all of them. Only bytes that were read can be damaged, and only
then it helps to remove the files.
"""

import importlib.metadata
import json
import os
from collections.abc import Iterator

from etils import epath

from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.storage import NOT_THERE, names_in, read_file, read_retried

_DESCRIPTIONS = ('dataset_info.json', 'features.json')
_READERS = ('tensorflow-datasets', 'protobuf', 'array-record')


def damaged(name: str, folder, error: Exception | str) -> UserError:
  """Return the error for a prepared data set in `folder` whose bytes are wrong."""
  reason = error if isinstance(error, str) else one_line(error, 150)
  return UserError(
    f'data set {name} in {folder} is damaged ({reason}): remove that folder and prepare it again'
  )


def missing(name: str, folder, error: Exception | str) -> UserError:
  """Return the error for a prepared data set in `folder` that lacks a file."""
  return UserError(
    f'data set {name} in {folder} lacks a file ({error}): restore it, or prepare the data set again'
  )


def unreadable(name: str, place, error: Exception) -> UserError:
  """Return the error for files that are intact as far as known, and that TFDS does not read."""
  versions = ', '.join(f'{reader} {_version(reader)}' for reader in _READERS)
  return UserError(
    f'data set {name}: {place} cannot be read by {versions} ({type(error).__name__}: '
    f'{one_line(error, 150)}): if a newer version wrote it, install that with pip install -U '
    f'{_READERS[0]}; otherwise prepare the data set again in another folder'
  )


def check_descriptions(name: str, folder) -> None:
  """Raise the error of the first file below `folder` that describes a data set and is not JSON.

  Raises:
    UserError: such a file is damaged.
    StorageError: it cannot be read now.
  """
  for path in _descriptions(epath.Path(folder)):
    try:
      json.loads(read_file(path))
    except StorageError:
      raise
    except (ValueError, RecursionError) as error:  # also a `UserError` of `read_file`
      raise damaged(name, path.parent, f'{path.name}: {one_line(error, 100)}') from error


def check_reachable(folder) -> None:
  """Raise `StorageError` if it cannot be seen now if there is such a folder."""
  try:
    read_retried(folder, lambda: os.stat(folder))
  except NOT_THERE:
    pass


def _descriptions(folder: epath.Path, depth: int = 2) -> Iterator[epath.Path]:
  """Yield the descriptions in `folder` and below: NAME/CONFIG/VERSION."""
  names = sorted(names_in(folder))
  yield from (folder / name for name in _DESCRIPTIONS if name in names)
  for name in names if depth else ():
    yield from _descriptions(folder / name, depth - 1)


def _version(package: str) -> str:
  try:
    return importlib.metadata.version(package)
  except importlib.metadata.PackageNotFoundError:
    return '(not installed)'
