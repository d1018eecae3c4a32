"""Overlap of host and devices in an evaluation, and the order of its results."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from mixer_jax.parallel.memory import remedies_named
from mixer_jax.parallel.preemption import stop_point

B = TypeVar('B')


def in_order(results: Sequence[Mapping[str, Any]], size: int) -> dict[str, Any]:
  """Return results of all batches of a split of `size` examples, joined in the order of the split.

  A mesh need not have its devices in the order of processes, so that rows have another order.

  Args:
    results: arrays, one row per example, with the `index` of the rows.
  """
  joined = jax.tree.map(lambda *parts: np.concatenate(parts), *results)
  order = np.argsort(joined['index'])[len(joined['index']) - size :]  # padding comes first
  return jax.tree.map(lambda values: values[order], joined)


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
