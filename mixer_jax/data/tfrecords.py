"""Random access to TFRecord files, TFDS's default format, through an index.

A record is, little-endian: the length of its data (uint64), the checksum of these 8
bytes (uint32), the data, the checksum of the data (uint32); a checksum is a CRC-32C,
masked (TensorFlow, `lib/io/record_writer.h`). Files do not say where their records begin, so an
index is built once from the 12 bytes before each record. It is kept in the cache folder, since the
folder of the data set may be shared and read-only.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import logging
import os
import pathlib
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex, TypeVar

import google_crc32c
import numpy as np

from mixer_jax.data.shards import OpenFiles, Part, Parts
from mixer_jax.errors import StorageError, UserError
from mixer_jax.home import cache_folder, warn_uncached
from mixer_jax.paths import is_remote, open_whole
from mixer_jax.storage import NOT_THERE, read_retried

T = TypeVar('T')

log = logging.getLogger(__name__)

_HEADER, _CHECKSUM = struct.Struct('<QI'), struct.Struct('<I')
_OVERHEAD = _HEADER.size + _CHECKSUM.size  # bytes of a record that are not its data
_MASK = 0xA282EAD8
_INDEX_VERSION = 1
_SCANNERS = 16
"""Threads that search for records; they mostly wait for a disk or a network."""


class TFRecords(Sequence):
  """Records of `parts`, one part after the other; `records[i]` is parsed.

  Safe to use from several threads, and can be pickled. The checksum is compared at every read,
  which takes 6 µs of about 100 for a record of 110 KB.

  Args:
    parts: parts of files, in order.
    parse: function of bytes that begin with a record, and of its end in them.
    name: data set, for messages.

  Raises:
    UserError: a file is missing, damaged or in a bucket; on reading, a file that was damaged or
      replaced since.
    StorageError: a file cannot be read now.
  """

  def __init__(self, parts: Sequence[Part], parse: Callable[[bytes, int], Any], name: str):
    for part in parts:
      if is_remote(part.path):
        raise UserError(
          f'data set {name} in {os.path.dirname(part.path)} is stored as TFRecord, which has no '
          'random access in a bucket: mount it with gcsfuse, or copy the data set'
        )
    shards = _index({part.path: part.examples for part in parts}, name)
    self._parts, self._parse = Parts(parts), parse
    self._stamps = {part.path: shards[part.path].stamp for part in parts}
    # These are views, so slices of a split share one index.
    self._bounds = [shards[p.path].bounds[p.skip : p.skip + p.take + 1] for p in parts]
    self._files = self._no_files()

  def _no_files(self) -> OpenFiles['_OpenFile']:
    # Not a bound method: a cycle would keep the files open until it is collected.
    return OpenFiles(functools.partial(_open_indexed, self._stamps), len(self._stamps))

  def __len__(self) -> int:
    return len(self._parts)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    number, place = self._parts.find(index.__index__())
    begin, end = self._bounds[number][place : place + 2].tolist()
    path = self._parts.parts[number].path

    def read() -> bytes:
      file = self._files.get(path)
      try:
        return os.pread(file.descriptor, end - begin - _HEADER.size, begin + _HEADER.size)
      except OSError:
        self._files.drop(path)  # on some network file systems it stays unusable
        raise

    data = _read(path, read)  # and its checksum; slicing would copy the data
    if not _is_intact(data):
      raise _damaged(path, f'the record at byte {begin} has a wrong checksum')
    return self._parse(data, len(data) - _CHECKSUM.size)

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_files': None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._files = self._no_files()


class _OpenFile:
  """A descriptor that is closed when it is no longer used."""

  def __init__(self, descriptor: int):
    self.descriptor = descriptor

  def __del__(self, close=os.close):  # bound here: modules may be gone when Python ends
    close(self.descriptor)


def _open_indexed(stamps: Mapping[str, tuple[int, int]], path: str) -> _OpenFile:
  """Open a file, if it is still the one that was indexed."""
  file = _OpenFile(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
  if _stamp(os.fstat(file.descriptor)) != stamps[path]:
    raise UserError(f'{path} was changed while in use: start again')
  return file


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


def _is_intact(data: bytes) -> bool:
  """Return True if data ends with its checksum.

  The CRC of data and checksum is compared with that of the checksum, continued from the CRC that it
  stands for. They are equal if and only if that is the CRC of the data, which need not be copied.
  """
  stored = data[-_CHECKSUM.size :]
  if len(stored) < _CHECKSUM.size:
    return False
  rotated = (_CHECKSUM.unpack(stored)[0] - _MASK) & 0xFFFFFFFF
  crc = (rotated << 15 | rotated >> 17) & 0xFFFFFFFF
  return google_crc32c.value(data) == google_crc32c.extend(crc, stored)


def _masked_checksum(data: bytes) -> int:
  """Return the masked CRC-32C of the format; the plain CRC of data with its CRC is constant."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


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
