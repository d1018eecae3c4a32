"""Image files, local or in a bucket: found below folders, counted where left out, read."""

import collections
import functools
import glob
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np
from etils import epath

from mixer_jax.data.file_sizes import file_sizes
from mixer_jax.data.listings import listed, remembered
from mixer_jax.data.names import Names
from mixer_jax.data.source import Record
from mixer_jax.errors import StorageError, UserError, printable
from mixer_jax.paths import is_regular, is_remote, user_path
from mixer_jax.storage import read_retried

log = logging.getLogger(__name__)

FIRST_SUFFIXES = frozenset(('.jpg', '.jpeg', '.png', '.webp'))
"""Extensions that the first rules of folders take."""

SUFFIXES = FIRST_SUFFIXES | {
  *('.jpe', '.jfif', '.gif', '.bmp', '.tif', '.tiff', '.avif', '.jp2'),
  *('.ppm', '.pgm', '.pbm', '.pnm'),
}
"""Extensions of the formats that are decoded, in lower case."""

SYSTEM_FOLDERS = ('lost+found', '__MACOSX')
"""Folders that file systems and archives add; they are not opened, and may not be readable."""

LeftOut = collections.Counter[str]
"""Reason -> number of files or folders that are not used."""


def subfolders(folder: str, left_out: LeftOut | None = None) -> list[str]:
  """Return the names of the folders in a folder that may hold images; counts what else is there."""
  left_out = LeftOut() if left_out is None else left_out
  names = []
  for name, kind in listed(folder, is_image):
    if kind == 'folder' and name[0] != '.' and name not in SYSTEM_FOLDERS:
      names.append(name)
    elif kind == 'file' and name[0] != '.' and _suffix(name) in SUFFIXES:
      left_out['images beside the class folders'] += 1
    else:
      left_out[_reason(name, kind)] += 1
  return names


def images_below(
  folder: str,
  left_out: LeftOut | None = None,
  suffixes: frozenset[str] = SUFFIXES,
  above: frozenset[str] = frozenset(),
) -> Iterator[str]:
  """Yield the names of the image files below a folder, relative to it, in the order of names.

  Args:
    left_out: counts what is not used.
    above: real paths of folders above; links to them are not followed.
  """
  left_out = LeftOut() if left_out is None else left_out
  place = real_path(folder)
  if place in above:
    log.warning('%s links to a folder above it and is not followed', printable(folder))
    return
  yield from _below(folder, '', place, above | {place}, left_out, suffixes)


def _below(
  folder: str,
  prefix: str,
  place: str,
  above: frozenset[str],
  left_out: LeftOut,
  suffixes: frozenset[str],
) -> Iterator[str]:
  for name, kind in listed(folder, is_image):
    if kind == 'file' and name[0] != '.' and _suffix(name) in suffixes:
      yield prefix + name
    elif kind != 'folder' or name[0] == '.' or name in SYSTEM_FOLDERS:
      left_out[_reason(name, kind)] += 1
    else:
      path = f'{folder}/{name}'
      is_link = not is_remote(path) and os.path.islink(path)
      inside = real_path(path) if is_link else f'{place}/{name}'
      if inside in above:
        log.warning('%s links to a folder above it and is not followed', printable(path))
      else:
        yield from _below(path, f'{prefix}{name}/', inside, above | {inside}, left_out, suffixes)


def real_path(folder: str) -> str:
  """Return the path of a local folder without links; a bucket has none."""
  return folder if is_remote(folder) else os.path.realpath(folder)


def is_image(name: str) -> bool:
  """Return True for the name of a file in a format that is decoded."""
  return _suffix(name) in SUFFIXES


def _suffix(name: str) -> str:
  stem, _, end = name.rpartition('.')  # as `os.path.splitext`, which takes four times as long
  return f'.{end}'.lower() if stem.strip('.') else ''


def _reason(name: str, kind: str) -> str:
  if name in SYSTEM_FOLDERS:
    return name
  if name[0] == '.':
    return 'hidden'
  return f'{kind}s' if kind != 'file' else _suffix(name) or 'without an extension'


@functools.cache
def _log_once(level: int, line: str) -> None:
  log.log(level, '%s', line)


def report(folder: str, left_out: LeftOut) -> None:
  """Log one line of what is not used, once; a warning if there is more than hidden files."""
  if left_out:
    counts = ', '.join(f'{printable(reason)} {n:,}' for reason, n in left_out.most_common())
    level = logging.WARNING if set(left_out) - {'hidden', *SYSTEM_FOLDERS} else logging.INFO
    _log_once(level, f'{printable(folder)}: left out {counts}')


def find_images(names: Iterable[str]) -> list[epath.Path]:
  """Return the files of names that are files, folders or patterns, each once.

  Raises:
    UserError: there is nothing for some of the names; all of these are listed.
  """
  files: list[epath.Path] = []
  faults = []
  for name in names:
    path = user_path(name)
    if path.is_dir():
      left_out = LeftOut()
      with remembered(str(path)):
        below = [path / file for file in images_below(str(path), left_out)]
      report(str(path), left_out)
      faults += [] if below else [f'no images in {name}']
      files += below
    elif path.exists():
      faults += [] if is_regular(path) else [f'{name} is not a regular file']
      files.append(path)
    elif glob.has_magic(name):
      matches = _matches(path)
      faults += [] if matches else [f'nothing matches {name}']
      files += matches
    else:
      faults.append(f'no file {name}')
  if faults:
    raise UserError('; '.join(faults))
  return list(dict.fromkeys(files))


def _matches(pattern: epath.Path) -> list[epath.Path]:
  if not is_remote(pattern):
    found = [epath.Path(name) for name in glob.glob(str(pattern), recursive=True)]
  else:
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found = list(epath.Path(*parts[:fixed]).glob('/'.join(parts[fixed:])))
  return sorted(path for path in found if is_regular(path))


class Files(Sequence):
  """Records of image files, each read on access.

  Attributes:
    files: names, below `root` if there is one.
    labels: one for each file.
    root: folder; '' if the names are complete.
    places: folders of the splits that the files are from, without links.

  Args:
    retry_all: wait for each file that cannot be read; else, once one could not be read in the time
      for retries, later ones are tried once.
  """

  def __init__(
    self,
    files: Sequence[str | epath.Path],
    labels: Sequence[int],
    root: str = '',
    places: Sequence[str] = (),
    *,
    retry_all: bool = True,
  ):
    self.files, self.labels = Names(map(str, files)), np.asarray(labels, np.int32)
    self.root, self.places = root, places
    self._retry_all, self._has_failed = retry_all, False

  def __len__(self) -> int:
    return len(self.files)

  def __getitem__(self, index: SupportsIndex) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
    index = index.__index__()
    path = self.path(index)
    seconds = 0.0 if self._has_failed and not self._retry_all else None
    try:
      data = read_retried(path, epath.Path(path).read_bytes, seconds=seconds)
    except StorageError:
      self._has_failed = True
      raise
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
      raise UserError(
        f'{printable(path)} was removed after its folder was listed: start again without it'
      ) from error
    return {'image': data, 'label': self.labels.item(index), 'file_name': path}

  def path(self, index: int) -> str:
    """Return the complete name of a file."""
    return f'{self.root}/{self.files[index]}' if self.root else self.files[index]

  def shared_with(self, other: 'Files') -> int:
    """Return the number of files of `other` that are here as well."""
    if not self.is_near(other.places):
      return 0
    here, there = real_path(self.root), real_path(other.root)
    if here == there:
      mine, theirs = set(self.files), other.files
    else:
      mine = {f'{here}/{name}' for name in self.files}
      theirs = (f'{there}/{name}' for name in other.files)
    return sum(name in mine for name in theirs)

  def is_near(self, places: Iterable[str]) -> bool:
    """Return True if one of these folders is one of `self.places`, or inside or above one."""
    pairs = [(f'{one}/', f'{other}/') for one in self.places for other in places]
    return any(one.startswith(other) or other.startswith(one) for one, other in pairs)

  def sizes(self) -> dict[str, int | None]:
    """Return file below the root -> bytes; None in a bucket, which takes a request for each."""
    return file_sizes(self.root, self.files)
