"""Overlap of host and devices in an evaluation."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import jax

from mixer_jax.parallel.memory import remedies_named
from mixer_jax.parallel.preemption import stop_point

B = TypeVar('B')


def pipelined(step: Callable[[B], Any], batches: Iterable[B]) -> Iterator[Any]:
  """Yield the result of `step` for each batch, in order, on the host.

  The next batch is read and dispatched before the previous result is fetched, so that the
  devices do not wait for the host.

  Raises:
    PreemptedError: a run was asked to stop, which is seen between batches.
    UserError: there is too little memory for a batch.
  """
  pending = None
  with remedies_named('an evaluation batch', lambda: ['a smaller --config.eval_batch_size']):
    for batch in batches:
      stop_point('during an evaluation')
      dispatched = step(batch)
      if pending is not None:
        yield jax.device_get(pending)
      pending = dispatched
    if pending is not None:
      yield jax.device_get(pending)
