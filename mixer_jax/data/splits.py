"""Slices of splits of known sizes, as TFDS defines them."""

import itertools
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from mixer_jax.errors import UserError

log = logging.getLogger(__name__)


class Span(NamedTuple):
  """Consecutive examples of a stored split."""

  split: str
  start: int
  stop: int


def names_in(split: str) -> list[str]:
  """Return the names of the splits in a split expression: 'train[:9%]+test' has train and test."""
  return re.findall(r'(?:^|\+)\s*(\w+)', split)


def spans(split: str, sizes: Mapping[str, Any], name: str) -> list[Span]:
  """Return the examples that each part of a split expression consists of.

  Args:
    sizes: split -> number of its examples, or TFDS's `SplitInfo` of it.
    name: of the data set, for messages.

  Raises:
    UserError: a slice is invalid, or there is no such split.
  """
  from tensorflow_datasets.core import splits  # takes a second, without TensorFlow

  known = {
    key: splits.SplitInfo(key, [size], 0) if isinstance(size, int) else size
    for key, size in sizes.items()
  }
  try:
    parts = splits.AbstractSplit.from_spec(split).to_absolute(known)
  except (KeyError, ValueError, AssertionError, NotImplementedError) as error:
    raise UserError(
      f"{name} has no split {split!r}: slices are written as in 'train[:99%]'"
    ) from error
  size = lambda part: known[part.splitname].num_examples
  return [
    Span(part.splitname, part.from_ or 0, size(part) if part.to is None else part.to)
    for part in parts
  ]


def ranges(split: str, size: int, name: str) -> list[tuple[int, int]]:
  """Return the (start, stop) of each slice in `split`, for splits of `size` examples.

  Raises:
    UserError: the slices are invalid; `name` is used in the message.
  """
  sizes = dict.fromkeys(names_in(split), size)
  return [(start, stop) for _, start, stop in spans(split, sizes, name)]


def common(one: Span, other: Span) -> int:
  """Return the number of examples that are in both."""
  if one.split != other.split:
    return 0
  return max(min(one.stop, other.stop) - max(one.start, other.start), 0)


def warn_of_repeats(name: str, parts: Sequence[Span]) -> None:
  """Log a warning if a split expression has examples twice."""
  repeated = sum(common(one, other) for one, other in itertools.combinations(parts, 2))
  if repeated:
    log.warning('%s has %d examples twice: its parts overlap', name, repeated)


def below(folder, parts: Iterable[Span]) -> tuple[Span, ...]:
  """Return the parts with the folder that they are stored in as a part of their names."""
  return tuple(part._replace(split=f'{folder}/{part.split}') for part in parts)


def cut(parts: Sequence[Span], start: int, stop: int) -> list[Span]:
  """Return the examples at positions `start` to `stop` of the parts one after the other."""
  found, first = [], 0
  for split, begin, end in parts:
    low, high = max(start - first, 0), min(stop - first, end - begin)
    if low < high:
      found.append(Span(split, begin + low, begin + high))
    first += end - begin
  return found
