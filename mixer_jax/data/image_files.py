"""Image files below a folder, local or in a bucket, and counts of what is left out."""

import collections
import errno
import functools
import logging
import os
from collections.abc import Iterator

from etils import epath

from mixer_jax.errors import UserError, printable
from mixer_jax.paths import is_remote
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


def listed(folder: str) -> list[tuple[str, str]]:
  """Return (name, kind) of everything in a folder by name; it is read once.

  Kinds are 'file', 'folder', 'broken link' and 'special file', such as a pipe.

  Raises:
    UserError: there is no such folder.
    StorageError: it cannot be read now.
  """

  def read() -> list[tuple[str, str]]:
    if is_remote(folder):  # one request lists a folder; `is_dir` is another for each entry
      return [
        (path.name, 'file' if _suffix(path.name) in SUFFIXES or not path.is_dir() else 'folder')
        for path in epath.Path(folder).iterdir()
      ]
    with os.scandir(folder) as entries:
      return [(entry.name, _kind(entry)) for entry in entries]

  try:
    return sorted(read_retried(folder, read))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f'no folder {printable(folder)}') from error


def _kind(entry: os.DirEntry) -> str:
  try:
    if entry.is_file():
      return 'file'
    if entry.is_dir():
      return 'folder'
  except OSError as error:
    if error.errno != errno.ELOOP:  # a link to itself
      raise
  return 'broken link' if entry.is_symlink() else 'special file'


def subfolders(folder: str, left_out: LeftOut | None = None) -> list[str]:
  """Return the names of the folders in a folder that may hold images; counts what else is there."""
  left_out = LeftOut() if left_out is None else left_out
  names = []
  for name, kind in listed(folder):
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
  for name, kind in listed(folder):
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


def _suffix(name: str) -> str:
  return os.path.splitext(name)[1].lower()


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
