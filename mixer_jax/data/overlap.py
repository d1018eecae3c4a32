"""Images that two splits have in common."""

import itertools
from collections.abc import Iterable

from mixer_jax.data.folders import Files
from mixer_jax.data.source import Source
from mixer_jax.data.splits import Span, common


def shared(one: Source, other: Source) -> int:
  """Return the number of images of `other` that are in `one`, as far as their places say it.

  Files are compared by their names, records of TFDS by their positions in the stored splits.
  Copies of an image are not found.
  """
  if isinstance(one.records, Files) and isinstance(other.records, Files):
    return one.records.shared_with(other.records)
  return shared_parts(one.stored, other.stored)


def shared_parts(one: Iterable[Span], other: Iterable[Span]) -> int:
  """Return the number of examples that parts of stored splits have in common."""
  return sum(common(a, b) for a, b in itertools.product(one, other))
