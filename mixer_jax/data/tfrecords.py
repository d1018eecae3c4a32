"""Random access to TFRecord files, TFDS's default format, through an index.

A record is, little-endian: the length of its data (uint64), the checksum of these 8
bytes (uint32), the data, the checksum of the data (uint32); a checksum is a CRC-32C,
masked (TensorFlow, `lib/io/record_writer.h`). Files do not say where their records begin, so an
index is built once from the 12 bytes before each record. It is kept in the cache folder, since the
folder of the data set may be shared and read-only.
"""

import bisect
import collections
import concurrent.futures
import dataclasses
import hashlib
import itertools
import logging
import os
import pathlib
import resource
import struct
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import google_crc32c
import numpy as np

from mixer_jax.errors import StorageError, UserError
from mixer_jax.home import cache_folder, warn_uncached
from mixer_jax.paths import is_remote, open_whole
from mixer_jax.storage import NOT_THERE, read_retried

T = TypeVar('T')

log = logging.getLogger(__name__)

_HEADER, _CHECKSUM = struct.Struct('<QI'), struct.Struct('<I')
_OVERHEAD = _HEADER.size + _CHECKSUM.size  # bytes of a record that are not its data
_INDEX_VERSION = 1
_SCANNERS = 16
"""Threads that search for records; they mostly wait for a disk or a network."""
_MAX_OPEN = 1024


@dataclasses.dataclass(frozen=True)
class Part:
  """Consecutive records of one file.

  Attributes:
    path: the file.
    skip, take: number of records to skip at the beginning, and to use after them.
    examples: total number of records, from the data set's info.
  """

  path: str
  skip: int
  take: int
  examples: int


class TFRecords(Sequence):
  """Records of `parts`, one part after the other; `records[i]` is parsed.

  Safe to use from several threads, and can be pickled. The checksum is compared at every read,
  which takes 6 µs of about 100 for a record of 110 KB.

  Args:
    parts: parts of files, in order.
    parse: function of the bytes of a record.
    name: data set, for messages.

  Raises:
    UserError: a file is missing, damaged or in a bucket; on reading, a file that was damaged or
      replaced since.
    StorageError: a file cannot be read now.
  """

  def __init__(self, parts: Sequence[Part], parse: Callable[[bytes], Any], name: str):
    for part in parts:
      if is_remote(part.path):
        raise UserError(
          f'data set {name} in {os.path.dirname(part.path)} is stored as TFRecord, which has no '
          'random access in a bucket: mount it with gcsfuse, or copy the data set'
        )
    shards = _index({part.path: part.examples for part in parts}, name)
    self._paths = [part.path for part in parts]
    self._stamps = [shards[part.path].stamp for part in parts]
    # These are views, so slices of a split share one index.
    self._bounds = [shards[p.path].bounds[p.skip : p.skip + p.take + 1] for p in parts]
    self._ends = list(itertools.accumulate(part.take for part in parts))
    self._parse, self._files = parse, _OpenFiles()

  def __len__(self) -> int:
    return self._ends[-1] if self._ends else 0

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    index = index.__index__()
    if not 0 <= index < len(self):
      raise IndexError(f'record {index} of {len(self)}')
    part = bisect.bisect_right(self._ends, index)
    place = index - (self._ends[part - 1] if part else 0)
    begin, end = self._bounds[part][place : place + 2].tolist()
    path, stamp = self._paths[part], self._stamps[part]

    def read() -> tuple[bytes, bytes]:
      file = self._files.get(path, stamp)
      try:
        # Data and checksum are read separately, since slicing would copy the data.
        data = os.pread(file.descriptor, end - begin - _OVERHEAD, begin + _HEADER.size)
        return data, os.pread(file.descriptor, _CHECKSUM.size, end - _CHECKSUM.size)
      except OSError:
        self._files.drop(path)  # on some network file systems it stays unusable
        raise

    data, stored = _read(path, read)
    if stored != _CHECKSUM.pack(_masked_checksum(data)):
      raise _damaged(path, f'the record at byte {begin} has a wrong checksum')
    return self._parse(data)

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_files': None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _files=_OpenFiles())


class _OpenFile:
  """A descriptor that is closed when it is no longer used."""

  def __init__(self, descriptor: int):
    self.descriptor = descriptor

  def __del__(self, close=os.close):  # bound here: modules may be gone when Python ends
    close(self.descriptor)


class _OpenFiles:
  """Files that stay open; the least recently used one is dropped if there are too many.

  ImageNet has 1,024 shards, often the limit of open files per process. A source uses at most an
  eighth of it.
  """

  def __init__(self):
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    unlimited = limit == resource.RLIM_INFINITY
    self._limit = _MAX_OPEN if unlimited else min(_MAX_OPEN, max(limit // 8, 8))
    self._lock = threading.Lock()
    self._open: collections.OrderedDict[str, _OpenFile] = collections.OrderedDict()

  def get(self, path: str, stamp: tuple[int, int]) -> _OpenFile:
    """Return the file, opened if necessary; it stays open while the caller holds it."""
    with self._lock:
      if path in self._open:
        self._open.move_to_end(path)
        return self._open[path]
    # Not under the lock, since a network may be slow. Two threads may open the same file.
    file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    if _stamp(os.fstat(file.descriptor)) != stamp:
      raise UserError(f'{path} was changed while in use: start again')
    with self._lock:
      file = self._open.setdefault(path, file)
      if len(self._open) > self._limit:
        self._open.popitem(last=False)
    return file

  def drop(self, path: str) -> None:
    """Open the file again at the next use."""
    with self._lock:
      self._open.pop(path, None)


@dataclasses.dataclass(frozen=True)
class _Shard:
  """Positions of the records of a file.

  Attributes:
    stamp: size in bytes and modification time in ns of the indexed file.
    bounds: (records + 1,) int64: first byte of each record, and the end of the last one.
  """

  stamp: tuple[int, int]
  bounds: np.ndarray


def _index(files: Mapping[str, int], name: str) -> dict[str, _Shard]:
  """Return path -> shard; files that are missing or stale in the stored index are scanned.

  Args:
    files: path -> expected number of records; all in one folder.
  """
  from tqdm import tqdm

  folder = os.path.dirname(next(iter(files), ''))
  stored = _load_index(folder)
  shards: dict[str, _Shard] = {}
  with concurrent.futures.ThreadPoolExecutor(_SCANNERS) as pool:
    for path, stamp in zip(files, pool.map(_stamp_of, files), strict=True):
      shard = stored.get(os.path.basename(path))
      if shard and shard.stamp == stamp and len(shard.bounds) == files[path] + 1:
        shards[path] = shard
    stale = [path for path in files if path not in shards]
    if not stale:
      return shards
    log.info('data set %s: indexing %d TFRecord files in %s', name, len(stale), folder)
    # disable=None: no bar unless the output is a terminal; delay: none within the first second.
    bar = tqdm(
      total=sum(files[path] for path in stale),
      unit=' records',
      unit_scale=True,
      desc=f'indexing {name}',
      disable=None,
      delay=1,
    )
    with bar:
      for path, shard in zip(
        stale, pool.map(_scan, stale, [files[path] for path in stale]), strict=True
      ):
        shards[path] = shard
        bar.update(len(shard.bounds) - 1)
  found = {os.path.basename(path): shard for path, shard in shards.items()}
  _store_index(folder, {**stored, **found})
  return shards


def _scan(path: str, examples: int) -> _Shard:
  """Find the records of a file.

  Raises:
    UserError: it is damaged, or does not hold `examples` records.
  """

  def scan() -> tuple[os.stat_result, list[int]]:
    file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
    state = os.fstat(file.descriptor)
    bounds, at = [0], 0
    while at < state.st_size:
      header = os.pread(file.descriptor, _HEADER.size, at)
      if len(header) < _HEADER.size:
        raise _damaged(path, f'it ends within the record at byte {at}')
      length, stored = _HEADER.unpack(header)
      if _masked_checksum(header[:8]) != stored:
        raise _damaged(path, f'no record begins at byte {at}')
      if at + length + _OVERHEAD > state.st_size:
        raise _damaged(path, f'it ends within the record at byte {at}')
      at += length + _OVERHEAD
      bounds.append(at)
    return state, bounds

  state, bounds = _read(path, scan)
  if len(bounds) - 1 != examples:
    raise _damaged(path, f'it has {len(bounds) - 1} records, but dataset_info.json says {examples}')
  return _Shard(_stamp(state), np.array(bounds, np.int64))


def _masked_checksum(data: bytes) -> int:
  """Return the masked CRC-32C of the format; the plain CRC of data with its CRC is constant."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


def _stamp(state: os.stat_result) -> tuple[int, int]:
  return state.st_size, state.st_mtime_ns


def _stamp_of(path: str) -> tuple[int, int]:
  return _stamp(_read(path, lambda: os.stat(path)))


def _read(path: str, read: Callable[[], T]) -> T:
  """Return `read()`, see `read_retried`; raises `UserError` if the file is not there."""
  try:
    return read_retried(path, read)
  except NOT_THERE as error:
    raise UserError(
      f'{path} cannot be read ({error.strerror}): restore it, or prepare the data set again'
    ) from error


def _damaged(path: str, reason: str) -> UserError:
  return UserError(
    f'{path} is damaged ({reason}): copy that file again, or remove {os.path.dirname(path)} '
    'and prepare the data set again'
  )


def _index_file(folder: str) -> pathlib.Path:
  """Return the index file of the data set in `folder`."""
  digest = hashlib.sha256(os.path.realpath(folder).encode(errors='surrogateescape')).hexdigest()
  return cache_folder() / 'tfrecords' / f'{digest[:32]}.npz'


def _load_index(folder: str) -> dict[str, _Shard]:
  """Return file name -> shard of the stored index; empty if there is none or it does not load."""
  try:
    with _index_file(folder).open('rb') as file, np.load(file) as arrays:
      if arrays['version'] != _INDEX_VERSION:
        return {}
      names, stamps = arrays['names'].tolist(), arrays['stamps'].tolist()
      bounds = np.split(arrays['bounds'], np.cumsum(arrays['lengths'])[:-1])
      return {
        name: _Shard((size, changed), part)
        for name, (size, changed), part in zip(names, stamps, bounds, strict=True)
      }
  except Exception:  # zipfile and NumPy raise many kinds; the index is built again
    return {}


def _store_index(folder: str, shards: Mapping[str, _Shard]) -> None:
  """Write the index. If several processes do, the last one wins; each writes a complete one."""
  try:
    # Files that no longer exist, for example of another number of shards, are dropped.
    existing = set(os.listdir(folder))
    shards = {name: shard for name, shard in sorted(shards.items()) if name in existing}
    path = _index_file(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
      np.savez(
        file,
        version=np.int64(_INDEX_VERSION),
        names=np.array(list(shards)),
        stamps=np.array([shard.stamp for shard in shards.values()], np.int64),
        lengths=np.array([len(shard.bounds) for shard in shards.values()], np.int64),
        bounds=np.concatenate([shard.bounds for shard in shards.values()]),
      )
  except (OSError, StorageError) as error:
    warn_uncached('indices of data sets', error)
