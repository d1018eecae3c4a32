"""Check of a source: every record is read and its image decoded."""

import collections
import concurrent.futures
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mixer_jax.data import decode, limits
from mixer_jax.data.source import Source
from mixer_jax.errors import StorageError, UserError

_THREADS = 16
_PART = 1024  # records per step of the progress

Progress = Callable[[Iterable[range], int, int], Iterator[range]]
"""Passes parts on and shows their progress: (parts, records per part, records in all)."""


class RecordCheck(NamedTuple):
  """Result of a check."""

  name: str
  """Name of the source."""
  records: int
  faults: list[str]
  """One line per record that cannot be used."""
  labels: list[int]
  """Number of records of each class."""

  def summary(self) -> str:
    """Return the result in one line."""
    return (
      f'{self.name}: {self.records:,} records, {len(self.faults)} of them cannot be used; '
      f'{len(self.labels)} classes of {min(self.labels):,} to {max(self.labels):,} images'
    )

  def fault_lines(self) -> list[str]:
    """Return the faults; equal ones, such as those after the end of a file, are one line."""
    counts = collections.Counter(self.faults)
    return [
      fault if count == 1 else f'{fault} ({count:,} records)' for fault, count in counts.items()
    ]


def check_records(
  source: Source, max_megapixels: int, progress: Progress | None = None
) -> RecordCheck:
  """Read and decode every record of a source.

  Args:
    max_megapixels: as in `DataConfig`.
    progress: shows the progress, such as `runlog.progress.reading`.

  Raises:
    StorageError: a record cannot be read now, which says nothing about it.
  """

  def check(index: int) -> tuple[int | None, str | None]:
    """Return (label, fault) of one record."""
    try:
      record = source[index]
    except StorageError:
      raise
    except UserError as error:  # it is damaged, or has no label
      return None, str(error)
    try:
      with limits.admitted(record['image'], max_megapixels):
        decode.decode(record['image'])
    except decode.UndecodableError as error:
      return record['label'], f'{record["name"]}: {error}'
    return record['label'], None

  faults: list[str] = []
  labels: collections.Counter[int | None] = collections.Counter()
  size = len(source)
  # One part at a time: `map` over all records would hold all results.
  parts = (range(first, min(first + _PART, size)) for first in range(0, size, _PART))
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for part in progress(parts, _PART, size) if progress else parts:
      for label, fault in pool.map(check, part):
        labels[label] += 1
        if fault:
          faults.append(fault)
  return RecordCheck(
    source.name, size, faults, [labels[label] for label in range(len(source.classes))]
  )
