"""Memory for batches, which worker processes may map too.

Shared memory is an anonymous file: it has no name in the file system, is not limited by the size of
/dev/shm, and is gone with the last process that maps it, however that ends.
"""

import collections
import errno
import math
import mmap
import os
import tempfile
import weakref
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from mixer_jax.data.batch import Batch
from mixer_jax.errors import StorageError, one_line

_ALIGNED = 64  # bytes; from such places JAX takes arrays on CPUs without a copy


class Column(NamedTuple):
  """Shape and dtype of one example's part of an array of a batch."""

  shape: tuple[int, ...]
  dtype: np.dtype


class Layout:
  """Places of the arrays of a batch in one slot.

  Args:
    rows: examples of a batch.
    columns: name of each array -> its part that belongs to an example.
  """

  def __init__(self, rows: int, columns: Mapping[str, Column]):
    self._arrays: dict[str, tuple[int, tuple[int, ...], np.dtype]] = {}
    size = 0
    for name, (shape, dtype) in columns.items():
      self._arrays[name] = size, (rows, *shape), np.dtype(dtype)
      size += math.prod((rows, *shape)) * np.dtype(dtype).itemsize
      size = -(-size // _ALIGNED) * _ALIGNED
    page = mmap.ALLOCATIONGRANULARITY
    self.size = -(-size // page) * page
    """Bytes of a slot, complete pages."""

  def arrays(self, slot: np.ndarray) -> Batch:
    """Return the arrays of a batch as views of the bytes of a slot."""
    return {
      name: np.ndarray(shape, dtype, slot, offset)
      for name, (offset, shape, dtype) in self._arrays.items()
    }


class Slots:
  """Slots for batches of one layout. There are as many as are in use at the same time.

  A slot is used again when no array of its batch is referenced any more, also by JAX.

  Args:
    shared: for other processes too. Else there is no file: their number and size may be limited.

  Raises:
    StorageError: no file can be opened now.
  """

  def __init__(self, layout: Layout, *, shared: bool = False):
    self.layout = layout
    self.file = -1
    """Descriptor of the file."""
    if shared:
      try:
        self.file = _anonymous_file()
      except OSError as error:
        raise StorageError(
          f'no memory can be shared with worker processes: {one_line(error)}; set '
          '--config.data.workers=0'
        ) from error
      weakref.finalize(self, os.close, self.file)
    self._slots: list[tuple[mmap.mmap, int]] = []  # each with its place in the map
    # Arrays may be released by any thread.
    self._free: collections.deque[int] = collections.deque()

  def take(self) -> tuple[int, Batch]:
    """Return the number of a free slot, and its arrays, whose content is undefined.

    Raises:
      StorageError: there is no memory for it.
    """
    try:
      number = self._free.pop()
    except IndexError:
      number = self._grow()
    memory, start = self._slots[number]
    slot = np.frombuffer(memory, np.uint8, self.layout.size, start)
    weakref.finalize(slot, self._free.append, number).atexit = False
    return number, self.layout.arrays(slot)

  def _grow(self) -> int:
    """Add slots, return the number of the first and make the others free."""
    size, first = self.layout.size, len(self._slots)
    try:
      if self.file < 0:
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
      else:
        # Only what is written takes memory, while each map takes a descriptor.
        os.ftruncate(self.file, (2 * first + 1) * size)
        memory = _mapped(self.file, first, size)
    except (OSError, ValueError) as error:
      if getattr(error, 'errno', None) == errno.EFBIG:
        raise StorageError(
          'files may not be large enough to share batches with worker processes (ulimit -f): raise '
          'that limit, or set --config.data.workers=0'
        ) from error
      raise StorageError(
        f'there is no memory for a batch of {size / 2**20:,.0f} MiB ({one_line(error)}): lower '
        'config.batch_size or config.data.prefetch'
      ) from error
    self._slots += [(memory, start) for start in range(0, len(memory), size)]
    self._free.extend(reversed(range(first + 1, len(self._slots))))
    return first


class OthersSlots:
  """Slots of another process, by their numbers.

  Args:
    file: descriptor of the anonymous file.
  """

  def __init__(self, layout: Layout, file: int):
    self._layout, self._file = layout, file
    self._batches: dict[int, Batch] = {}

  def batch(self, number: int) -> Batch:
    """Return the arrays of a slot; its first use maps it."""
    if number not in self._batches:
      first, size = 2 ** ((number + 1).bit_length() - 1) - 1, self._layout.size
      memory = _mapped(self._file, first, size)
      for other, start in enumerate(range(0, len(memory), size), first):
        slot = np.frombuffer(memory, np.uint8, size, start)
        self._batches[other] = self._layout.arrays(slot)
    return self._batches[number]


def _mapped(file: int, first: int, size: int) -> mmap.mmap:
  """Map slots of the file: 1 from 0 on, 2 from 1 on, 4 from 3 on, and so on."""
  return mmap.mmap(file, (first + 1) * size, offset=first * size)


def _anonymous_file() -> int:
  if hasattr(os, 'memfd_create'):
    return os.memfd_create('mixer_jax batches')
  with tempfile.TemporaryFile() as file:  # macOS
    return os.dup(file.fileno())
