"""Share of the time that devices wait for their input.

The loop asks for batch n+1 while the devices still compute step n, so that its own time in
`next(batches)` is not theirs. A thread follows the devices instead: it waits for each batch and for
the metrics of each step, and notes the times. Step n+1 waits for input from the later of two
moments, the end of step n and the request for its batch, until the batch is on the devices.
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator

import jax

from mixer_jax.training.step import Batch, Metrics

_Step = tuple[float, float, Batch, Metrics]
"""Times at which its batch was asked for and was received, the batch, the metrics."""


class InputWait:
  """Measures the devices of this process, one step after the other.

  Reading, decoding and the transfer of a batch are input. The rest of the loop is not: devices that
  are idle while a row is written do not wait for input. A step counts from the end of the step
  before it; the first one, and the first after a `pause`, do not count.

  A thread that gets Python's lock late notes the end of a step late: the share is then too small,
  never too large. The loop itself takes no lock and waits for nothing here.

  Args:
    clock: returns seconds.
  """

  def __init__(self, clock: Callable[[], float] = time.monotonic):
    self._clock = clock
    self._asked = self._received = 0.0
    self._steps: queue.SimpleQueue[_Step | str] = queue.SimpleQueue()
    self._sums = self._reported = (0.0, 0.0)  # seconds of waiting, seconds of all steps

  @contextlib.contextmanager
  def measured(self) -> Iterator[None]:
    """Follow the devices during this context."""
    # Not a daemon: Python's exit would end such a thread inside the runtime, which aborts.
    threading.Thread(target=self._follow, name='input wait').start()
    try:
      yield
    finally:
      self._steps.put('end')

  def next(self, batches: Iterator[Batch]) -> Batch:
    """Return the next batch, and note when it was asked for and received."""
    self._asked = self._clock()
    batch = next(batches)
    self._received = self._clock()
    return batch

  def dispatched(self, batch: Batch, metrics: Metrics) -> None:
    """Note that the step with the last batch is dispatched."""
    self._steps.put((self._asked, self._received, batch, metrics))

  def pause(self) -> None:
    """Exclude the time up to the end of the next step."""
    self._steps.put('pause')

  def share(self) -> float | None:
    """Return the share of waiting, 0 to 1, since the last call; None: no step has counted."""
    (waited, total), (old_waited, old_total) = self._sums, self._reported
    self._reported = waited, total
    return (waited - old_waited) / (total - old_total) if total > old_total else None

  def _follow(self) -> None:
    ended: float | None = None
    while (item := self._steps.get()) != 'end':
      ended = None if isinstance(item, str) else self._end_of(item, ended)

  def _end_of(self, step: _Step, before: float | None) -> float | None:
    """Wait until a step ends; return that time.

    Args:
      before: end of the step before it; None: this one does not count.
    """
    asked, received, batch, metrics = step
    try:
      arrived = received if _is_ready(batch) else self._ready(batch)
      ended = self._ready(metrics)
    except RuntimeError:  # of the devices; the loop meets it in the metrics
      return None
    if before is not None:
      waited, total = self._sums
      wait = max(arrived - max(asked, before), 0)
      self._sums = waited + wait, total + ended - before
    return ended

  def _ready(self, arrays: Batch | Metrics) -> float:
    jax.block_until_ready(arrays)
    return self._clock()


def _is_ready(batch: Batch) -> bool:
  """Return True if nothing is left to wait for; arrays of NumPy are always there."""
  return all(array.is_ready() for array in jax.tree.leaves(batch) if hasattr(array, 'is_ready'))
