"""Files that hold the records of a split one after the other, and those of them that are open."""

import bisect
import collections
import dataclasses
import itertools
import logging
import resource
import threading
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar('T')

log = logging.getLogger(__name__)

_MAX_OPEN = 4096
_SHARE = 8
"""A source has at most this fraction of the files open that a process may open."""


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


class Parts:
  """Parts of files, in order."""

  def __init__(self, parts: Sequence[Part]):
    self.parts = tuple(parts)
    self._ends = list(itertools.accumulate(part.take for part in parts))
    self._count = self._ends[-1] if parts else 0

  def __len__(self) -> int:
    return self._count

  def find(self, index: int) -> tuple[int, int]:
    """Return the number of the part that a record is in, and its position in that part.

    Raises:
      IndexError: there is no such record.
    """
    if not 0 <= index < self._count:
      raise IndexError(f'record {index} of {self._count}')
    number = bisect.bisect_right(self._ends, index)
    return number, index - (self._ends[number - 1] if number else 0)


class OpenFiles(Generic[T]):
  """Files that stay open; the least recently used one is dropped if there are too many.

  ImageNet has 1,024 shards, often the limit of open files per process, and ImageNet-21k may have
  more. A source uses at most an eighth of the limit, which is raised for it as far as a process
  may do that.

  Args:
    open_file: opens a file; it is closed when the last user has dropped the result.
    count: number of files that there are.
  """

  def __init__(self, open_file: Callable[[str], T], count: int):
    self._open_file = open_file
    self._limit = min(_MAX_OPEN, max(_allowed(_SHARE * count) // _SHARE, 8))
    self._all_fit = count <= self._limit
    self._lock = threading.Lock()
    self._open: collections.OrderedDict[str, T] = collections.OrderedDict()

  def get(self, path: str) -> T:
    """Return the file, opened if necessary; it stays open while the caller holds it."""
    if self._all_fit and (file := self._open.get(path)) is not None:
      return file
    with self._lock:
      if path in self._open:
        self._open.move_to_end(path)
        return self._open[path]
    # Not under the lock, since a network may be slow. Two threads may open the same file.
    file = self._open_file(path)
    with self._lock:
      file = self._open.setdefault(path, file)
      if len(self._open) > self._limit:
        self._open.popitem(last=False)
    return file

  def drop(self, path: str) -> None:
    """Open the file again at the next use."""
    with self._lock:
      self._open.pop(path, None)


def _allowed(wanted: int) -> int:
  """Return the number of files that this process may open, raised up to `wanted` if it may."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  if resource.RLIM_INFINITY in (soft, wanted) or soft >= wanted:
    return wanted
  raised = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
  if raised > soft:
    try:
      resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
    except (OSError, ValueError):  # a sandbox may forbid it
      return soft
    log.info('this process may now open %d files (ulimit -n was %d)', raised, soft)
  return raised
