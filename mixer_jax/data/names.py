"""Many names in little memory."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

import numpy as np


class Names(Sequence[str]):
  """Names of files as one block of bytes: a third of the memory of a list, and quick to pickle.

  A million names of 40 bytes take 48 MB. They have no NUL, as no name of a file has.
  """

  def __init__(self, names: Iterable[str]):
    self._bytes = '\0'.join([*names, '']).encode(errors='surrogateescape')
    self._ends = np.flatnonzero(np.frombuffer(self._bytes, np.uint8) == 0)

  def __len__(self) -> int:
    return len(self._ends)

  def __getitem__(self, index: SupportsIndex) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
    index = range(len(self._ends))[index.__index__()]
    begin = self._ends.item(index - 1) + 1 if index else 0
    return _decoded(self._bytes[begin : self._ends.item(index)])

  def __iter__(self) -> Iterator[str]:
    return itertools.islice(_decoded(self._bytes).split('\0'), len(self))


def _decoded(name: bytes) -> str:
  return name.decode(errors='surrogateescape')
