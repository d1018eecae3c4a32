"""Random access to array_record files; a reader is opened when one of its records is read."""

import errno
import functools
import os
from collections.abc import Callable, Sequence
from typing import Any, SupportsIndex

from mixer_jax.data.shards import OpenFiles, Part, Parts
from mixer_jax.data.tfds_files import damaged, missing
from mixer_jax.errors import one_line
from mixer_jax.storage import read_retried

_DAMAGED = ('Riegeli/records file', 'ArrayRecord file should be')
"""Parts of array_record's messages about the content of a file."""

_NOT_THERE = ('No such file', 'Is a directory', 'Not a directory')


class ArrayRecords(Sequence):
  """Records of `parts`, one part after the other; `records[i]` is parsed.

  Safe to use from several threads, and can be pickled.

  Args:
    parts: parts of files, in order.
    parse: function of the bytes of a record.
    name, folder: data set and its folder, for messages.

  Raises:
    UserError: on reading: a file is missing or damaged.
    StorageError: on reading: a file cannot be read now.
  """

  def __init__(
    self,
    parts: Sequence[Part],
    parse: Callable[[bytes], Any],
    name: str,
    folder: os.PathLike | str,
  ):
    self._parts, self._parse = Parts(parts), parse
    self._name, self._folder = name, os.fspath(folder)
    self._readers = OpenFiles(_open_reader, len(parts))

  def __len__(self) -> int:
    return len(self._parts)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    number, place = self._parts.find(index.__index__())
    part = self._parts.parts[number]
    read = functools.partial(self._read, part.path, part.skip + place)
    return self._parse(read_retried(f'data set {self._name} in {self._folder}', read))

  def _read(self, path: str, position: int) -> bytes:
    try:
      return self._readers.get(path).read([position])[0]
    except RuntimeError as error:  # the only one that array_record raises
      text = str(error)
      if any(sign in text for sign in _NOT_THERE):
        raise missing(self._name, self._folder, one_line(error, 150)) from error
      if any(sign in text for sign in _DAMAGED) and '() failed' not in text:
        raise damaged(self._name, self._folder, error) from error
      self._readers.drop(path)  # one that failed may remain so
      raise OSError(errno.EIO, one_line(error)) from error

  def __getstate__(self) -> dict[str, Any]:
    return {**self.__dict__, '_readers': None}

  def __setstate__(self, state: dict[str, Any]) -> None:
    self.__dict__.update(state, _readers=OpenFiles(_open_reader, len(state['_parts'].parts)))


def _open_reader(path: str) -> Any:
  from array_record.python.array_record_module import ArrayRecordReader

  # Records are read one at a time, so reading ahead would be in vain.
  return ArrayRecordReader(path, options='readahead_buffer_size:0', file_reader_buffer_size=32768)
