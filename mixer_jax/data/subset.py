"""Choice of the images that few-shot evaluation learns from, and subsets of a source."""

import concurrent.futures
import dataclasses
from collections.abc import Iterator, Sequence
from typing import SupportsIndex

import numpy as np

from mixer_jax.data.source import Source
from mixer_jax.errors import UserError


def choose_shots(
  labels: Sequence | np.ndarray,
  shots: int,
  seed: int,
  classes: Sequence[str],
  *,
  max_reads: int = 0,
) -> np.ndarray:
  """Choose the first `shots` examples of each class in the seed's permutation of the split.

  Labels are read in that order until all classes are full. So the choice does not depend on how
  many labels are known, and a choice of fewer shots is part of one of more.

  Args:
    labels: int label of every example; any object with a length and items. `SourceLabels` reads
      them from a source.
    classes: class names by label.
    max_reads: maximum number of labels to read; 0 for no limit.

  Returns:
    Positions in the split, (classes, shots) int64.

  Raises:
    UserError: a class has fewer examples, or a label has no class.
  """
  order = np.random.default_rng(seed).permutation(len(labels))
  order = order[: max_reads or None]
  chosen: list[list[int]] = [[] for _ in classes]
  missing = len(classes)
  for index, label in _read_in_order(labels, order):
    if not 0 <= label < len(classes):
      raise UserError(f'example {index} has label {label}, of {len(classes)} classes')
    if len(chosen[label]) < shots:
      chosen[label].append(index)
      missing -= len(chosen[label]) == shots
      if not missing:
        return np.array(chosen, np.int64)
  poor = min(range(len(classes)), key=lambda label: len(chosen[label]))
  few = f'class {poor} ({classes[poor]}) has {len(chosen[poor])} examples'
  if len(order) < len(labels):
    raise UserError(f'{few} among the {len(order)} that were read: raise few-shot max_reads')
  raise UserError(f'{few}, too few for {shots} shots: ask for fewer shots')


class SourceLabels(Sequence):
  """Labels of a source, each read once, on first use.

  A record is read for its label; its image is not decoded. Seeds share the labels read so far.
  """

  BLOCK = 256
  """Records read at once, to pay a remote store's latency per block and not per record."""

  def __init__(self, source: Source, *, threads: int):
    self._source, self._threads = source, threads
    self._known: dict[int, int] = {}

  def __len__(self) -> int:
    return len(self._source)

  def __getitem__(self, index):
    index = index.__index__()
    if index not in self._known:
      self._known[index] = int(self._source[index]['label'])
    return self._known[index]

  def in_order(self, order: np.ndarray) -> Iterator[tuple[int, int]]:
    """Yield (position, label) in this order, reading one block ahead."""
    with concurrent.futures.ThreadPoolExecutor(self._threads) as pool:
      for start in range(0, len(order), self.BLOCK):
        block = order[start : start + self.BLOCK].tolist()
        yield from zip(block, pool.map(self.__getitem__, block), strict=True)


def _read_in_order(labels, order: np.ndarray) -> Iterator[tuple[int, int]]:
  if isinstance(labels, SourceLabels):
    return labels.in_order(order)
  return ((int(index), int(labels[index])) for index in order)


class _Records(Sequence):
  """Some records of another sequence."""

  def __init__(self, records: Sequence, indices: np.ndarray):
    self._records, self._indices = records, indices

  def __len__(self) -> int:
    return len(self._indices)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._records[int(self._indices[index])]


def subset(source: Source, indices: np.ndarray) -> Source:
  """Return the records of a source at these positions, in this order."""
  name = f'{source.name}, {len(indices)} chosen'
  return dataclasses.replace(source, name=name, records=_Records(source.records, indices))
