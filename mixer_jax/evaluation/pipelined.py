"""Overlap of host and devices in an evaluation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

B = TypeVar('B')


def pipelined(step: Callable[[B], Any], batches: Iterable[B]) -> Iterator[Any]:
  """Yield the result of `step` for each batch, in order, on the host.

  The next batch is read and dispatched before the previous result is fetched, so that the
  devices do not wait for the host.
  """
  pending = None
  for batch in batches:
    dispatched = step(batch)
    if pending is not None:
      yield jax.device_get(pending)
    pending = dispatched
  if pending is not None:
    yield jax.device_get(pending)
