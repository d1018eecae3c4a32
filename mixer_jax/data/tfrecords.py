"""Random access to TFRecord files, TFDS's default format, through an index."""

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np

from mixer_jax.data.shards import OpenFiles, Part, Parts
from mixer_jax.data.tfrecord_files import (
  CHECKSUM,
  HEADER,
  OpenFile,
  Stamp,
  damaged,
  is_intact,
  read_existing,
  stamp,
)
from mixer_jax.data.tfrecord_index import index
from mixer_jax.errors import UserError
from mixer_jax.paths import is_remote


class TFRecords(Sequence):
  """Records of `parts`, one part after the other; `records[i]` is parsed.

  Safe to use from several threads, and can be pickled: another process finds the index in the cache
  folder, or gets it if there is no such folder. The checksum is compared at every read, which takes
  4 µs for a record of 110 KB.

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
    self._parts, self._parse, self._name = Parts(parts), parse, name
    found = index(self._examples(), name)
    self._is_kept = found.is_kept
    self._stamps = {path: shard.stamp for path, shard in found.shards.items()}
    self._bounds = self._views({path: shard.bounds for path, shard in found.shards.items()})
    self._files = self._no_files()

  def __len__(self) -> int:
    return len(self._parts)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    number, place = self._parts.find(index.__index__())
    bounds, path = self._bounds[number], self._parts.parts[number].path
    begin, end = bounds.item(place), bounds.item(place + 1)
    data_begin = begin + HEADER.size
    try:
      data = self._read(path, data_begin, end - data_begin)
    except OSError:
      data = read_existing(path, lambda: self._read(path, data_begin, end - data_begin))
    if not is_intact(data):
      raise damaged(path, f'the record at byte {begin} has a wrong checksum')
    return self._parse(data, len(data) - CHECKSUM.size)

  def _read(self, path: str, begin: int, size: int) -> bytes:
    file = self._files.get(path)
    try:
      return os.pread(file.descriptor, size, begin)
    except OSError:
      self._files.drop(path)  # on some network file systems it stays unusable
      raise

  @functools.cached_property
  def _bounds(self) -> list[np.ndarray]:
    """Bounds of the records of each part, in another process that reads a first record."""
    found = index(self._examples(), self._name, self._stamps).shards
    for path, shard in found.items():
      if shard.stamp != self._stamps[path]:
        raise _changed(path)
    return self._views({path: shard.bounds for path, shard in found.items()})

  def _views(self, bounds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Return the bounds of each part; slices of a split share one index."""
    return [bounds[p.path][p.skip : p.skip + p.take + 1] for p in self._parts.parts]

  def _examples(self) -> dict[str, int]:
    return {part.path: part.examples for part in self._parts.parts}

  def _no_files(self) -> OpenFiles[OpenFile]:
    # Not a bound method: a cycle would keep the files open until it is collected.
    return OpenFiles(functools.partial(_open_indexed, self._stamps), len(self._stamps))

  def __getstate__(self) -> dict[str, Any]:
    left_out = {'_files', '_bounds'} if self._is_kept else {'_files'}
    return {name: value for name, value in self.__dict__.items() if name not in left_out}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state)
    self._files = self._no_files()


def _open_indexed(stamps: Mapping[str, Stamp], path: str) -> OpenFile:
  """Open a file, if it is still the one that was indexed."""
  file = OpenFile(path)
  if stamp(os.fstat(file.descriptor)) != stamps[path]:
    raise _changed(path)
  return file


def _changed(path: str) -> UserError:
  return UserError(f'{path} was changed while in use: start again')
