"""Contents of folders, remembered between starts.

A folder of a million images takes minutes to list on some network file systems. Within
`remembered(root)`, what is in a local folder below the root is taken from the cache if the folder
has not changed: if its inode, its time of modification and its time of change are the same. Names
are remembered and not contents, so an image may be replaced in its place.

A folder is not remembered if it has links, whose targets may change; if it changed within the last
minute, since clocks are coarse and differ; and in a file system of FUSE: those of buckets do not
keep the times of folders.
"""

import contextlib
import contextvars
import errno
import functools
import hashlib
import os
import pathlib
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from etils import epath

from mixer_jax.errors import StorageError, UserError, printable
from mixer_jax.home import cache_folder, warn_uncached
from mixer_jax.paths import is_remote, open_whole
from mixer_jax.storage import read_retried

_VERSION = 1
_KINDS = ('file', 'folder', 'broken link', 'special file')
_FEWEST = 10_000
"""Entries below a root that are worth a file in the cache."""
_YOUNG = 60.0
"""Seconds after a change in which a folder may change again without a new time."""
_STEP = 1000  # entries between two updates of the progress bar

Entries = list[tuple[str, str]]
"""(name, kind), by name; kinds are 'file', 'folder', 'broken link' and 'special file'."""


def listed(folder: str, is_image: Callable[[str], bool]) -> Entries:
  """Return everything in a folder; it is read once.

  Args:
    is_image: recognises names of files in a bucket, where each look at the others takes a request.

  Raises:
    UserError: there is no such folder.
    StorageError: it cannot be read now.
  """
  listings = _current.get()
  try:
    if is_remote(folder):
      return sorted(read_retried(folder, lambda: _in_bucket(folder, is_image, listings)))
    known = listings and read_retried(folder, lambda: listings.known(folder))
    if known is not None:
      return known
    return read_retried(folder, lambda: _read(folder, listings))
  except (FileNotFoundError, NotADirectoryError) as error:
    raise UserError(f'no folder {printable(folder)}') from error


@contextlib.contextmanager
def remembered(root: str) -> Iterator[None]:
  """Take folders below a root from the cache, and show the progress of reading the others."""
  if _current.get():
    yield
    return
  from tqdm import tqdm

  listings = _Listings(os.path.realpath(root)) if not is_remote(root) else _Listings('')
  # disable=None: no bar unless the output is a terminal; delay: none within the first second.
  name = f'listing {printable(root)}'
  with tqdm(unit=' files', unit_scale=True, desc=name, disable=None, delay=1) as listings.bar:
    token = _current.set(listings)
    try:
      yield
    finally:
      _current.reset(token)
  listings.store()


class _Listing(NamedTuple):
  """Content of a folder: its stamp, its names with a NUL after each, a byte for each kind."""

  stamp: tuple[int, int, int]
  names: bytes
  kinds: bytes


class _Listings:
  """Contents of the folders below a root.

  Attributes:
    bar: progress of reading.
  """

  bar: Any

  def __init__(self, root: str):
    self._root = root
    self._is_changed = False
    self._known = _load(root) if root and _keeps_times(root) else None

  def known(self, folder: str) -> Entries | None:
    """Return the entries of a folder, if they are known and it has not changed."""
    listing = (self._known or {}).get(os.path.realpath(folder))
    if listing is None or listing.stamp != _stamp(os.stat(folder)):
      return None
    names = listing.names.decode(errors='surrogateescape').split('\0')
    return [(name, _KINDS[kind]) for name, kind in zip(names, listing.kinds, strict=False)]

  def add(self, folder: str, before: os.stat_result, entries: Entries) -> None:
    """Remember the entries of a folder that has no links, if it is old enough."""
    is_young = max(before.st_mtime, before.st_ctime) > time.time() - _YOUNG
    is_elsewhere = before.st_dev != os.stat(self._root).st_dev  # in a file system of another kind
    changes = _stamp(before) != _stamp(os.stat(folder))
    if self._known is None or is_young or is_elsewhere or changes:
      return
    names = ''.join(f'{name}\0' for name, _ in entries).encode(errors='surrogateescape')
    kinds = bytes(_KINDS.index(kind) for _, kind in entries)
    self._known[os.path.realpath(folder)] = _Listing(_stamp(before), names, kinds)
    self._is_changed = True

  def store(self) -> None:
    """Write what is known, if there is anything new and enough of it."""
    known = self._known or {}
    if not self._is_changed or sum(len(listing.kinds) for listing in known.values()) < _FEWEST:
      return
    folders = {folder: known[folder] for folder in sorted(known) if os.path.isdir(folder)}
    joined = lambda parts: np.frombuffer(b''.join(parts), np.uint8)
    path = _file_of(self._root)
    try:
      path.parent.mkdir(parents=True, exist_ok=True)
      with open_whole(path) as file:
        np.savez(
          file,
          version=np.int64(_VERSION),
          folders=joined(f'{folder}\0'.encode(errors='surrogateescape') for folder in folders),
          stamps=np.array([listing.stamp for listing in folders.values()], np.int64),
          sizes=np.array([(len(it.names), len(it.kinds)) for it in folders.values()], np.int64),
          names=joined(listing.names for listing in folders.values()),
          kinds=joined(listing.kinds for listing in folders.values()),
        )
    except (OSError, StorageError) as error:
      warn_uncached('lists of files', error)


_current: contextvars.ContextVar[_Listings | None] = contextvars.ContextVar(
  'listings', default=None
)


def _read(folder: str, listings: _Listings | None) -> Entries:
  before = os.stat(folder)
  entries, has_links = [], False
  with os.scandir(folder) as found:
    for entry in found:
      has_links |= entry.is_symlink()
      entries.append((entry.name, _kind(entry)))
      if listings and not len(entries) % _STEP:
        listings.bar.update(_STEP)
  entries.sort()
  if listings:
    listings.bar.update(len(entries) % _STEP)
    if not has_links:
      listings.add(folder, before, entries)
  return entries


def _in_bucket(folder: str, is_image: Callable[[str], bool], listings: _Listings | None) -> Entries:
  entries = []  # one request lists a folder; `is_dir` is another for each entry
  for path in epath.Path(folder).iterdir():
    entries.append((path.name, 'file' if is_image(path.name) or not path.is_dir() else 'folder'))
    if listings:
      listings.bar.update(1)
  return entries


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


def _stamp(state: os.stat_result) -> tuple[int, int, int]:
  return state.st_ino, state.st_mtime_ns, state.st_ctime_ns


def _keeps_times(folder: str) -> bool:
  """Return True unless the file system is one of FUSE."""
  try:
    mounts = pathlib.Path('/proc/self/mounts').read_text(errors='surrogateescape')
  except OSError:
    return True  # not Linux
  within = lambda place: f'{folder}/'.startswith(f'{place.rstrip("/")}/')
  fields = [line.split(' ') for line in mounts.splitlines()]
  kinds = {place.replace('\\040', ' '): kind for _, place, kind, *_ in fields}
  place = max((place for place in kinds if within(place)), key=len, default='')
  return not kinds.get(place, '').startswith('fuse')


def _file_of(root: str) -> pathlib.Path:
  digest = hashlib.sha256(root.encode(errors='surrogateescape')).hexdigest()
  return cache_folder() / 'folders' / f'{digest[:32]}.npz'


@functools.lru_cache(maxsize=1)
def _load(root: str) -> dict[str, _Listing]:
  """Return real path -> content of the folders below a root that are in the cache."""
  try:
    with _file_of(root).open('rb') as file, np.load(file) as arrays:
      if arrays['version'] != _VERSION:
        return {}
      folders = arrays['folders'].tobytes().decode(errors='surrogateescape').split('\0')
      names, kinds = arrays['names'].tobytes(), arrays['kinds'].tobytes()
      ends = np.cumsum(arrays['sizes'], axis=0).tolist()
      return {
        folder: _Listing(tuple(stamp), names[a:b], kinds[c:d])
        for folder, stamp, (a, c), (b, d) in zip(
          folders, arrays['stamps'].tolist(), [(0, 0), *ends], ends, strict=False
        )
      }
  except Exception:  # zipfile and NumPy raise many kinds; the folders are listed again
    return {}
