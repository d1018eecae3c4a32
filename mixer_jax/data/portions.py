"""Batches filled in portions: by the thread that takes them, by threads, or by processes."""

import collections
import concurrent.futures
import contextlib
import itertools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from mixer_jax.data.batch import Batch
from mixer_jax.data.examples import Examples, Remark, report
from mixer_jax.data.slots import Slots

PORTION = 16
"""Maximum number of examples that a thread is given at once."""


class Portion(NamedTuple):
  """Rows of a batch that are filled together.

  Attributes:
    positions: of the examples.
    slot: number of the batch's slot.
    first: row of the first example.
    rows: the rows, views of the slot's arrays.
  """

  positions: Sequence[int]
  slot: int
  first: int
  rows: Batch


class Team(Protocol):
  """Those who fill portions, in any order."""

  def begin(self, portion: Portion) -> Any:
    """Return a ticket for a portion; work on it may begin."""
    ...

  def finish(self, ticket: Any) -> list[Remark]:
    """Wait until the portion of a ticket is filled; raises what was raised while filling it."""
    ...

  def close(self) -> None:
    """End the team; portions that are not finished are dropped."""
    ...


class Alone:
  """The thread that finishes a portion fills it."""

  def __init__(self, examples: Examples):
    self._examples = examples

  def begin(self, portion: Portion) -> Portion:
    """Return the portion itself."""
    return portion

  def finish(self, ticket: Portion) -> list[Remark]:
    """Fill it now."""
    return self._examples.fill(ticket.positions, ticket.rows)

  def close(self) -> None:
    """Nothing is to be ended."""


class Threads:
  """Threads of this process."""

  def __init__(self, examples: Examples, count: int):
    self._examples = examples
    self._pool = concurrent.futures.ThreadPoolExecutor(count, 'input')
    # Also where the interpreter exits: later it could not be done.
    self._end = weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)

  def begin(self, portion: Portion) -> concurrent.futures.Future[list[Remark]]:
    """Put a portion in the queue of the threads."""
    return self._pool.submit(self._examples.fill, portion.positions, portion.rows)

  def finish(self, ticket: concurrent.futures.Future[list[Remark]]) -> list[Remark]:
    """Wait for its thread."""
    return ticket.result()

  def close(self) -> None:
    """Drop the queue; threads end after the portion that they have."""
    self._end()


def filled(
  team: Team,
  slots: Slots,
  steps: Iterator[Sequence[int]],
  ahead: int,
  skipped: set[str],
) -> Iterator[Batch]:
  """Yield one batch per step, filled by the team, which is closed at the end.

  Args:
    steps: positions of the examples of each batch.
    ahead: examples that are begun before they are needed.
    skipped: see `report`.
  """
  begun: collections.deque[tuple[Any, Batch, int]] = collections.deque()
  portions = _portions(slots, steps)

  def begin(count: int) -> None:
    for portion, batch in itertools.islice(portions, count):
      begun.append((team.begin(portion), batch, portion.first + len(portion.positions)))

  with contextlib.closing(team):
    begin(max(-(-ahead // PORTION), 1))
    while begun:
      ticket, batch, end = begun.popleft()
      report(team.finish(ticket), skipped)
      begin(1)
      if end == len(batch['label']):
        yield batch
      del batch  # so that its slot can be used again


def _portions(slots: Slots, steps: Iterator[Sequence[int]]) -> Iterator[tuple[Portion, Batch]]:
  """Yield the portions of each step with its batch; memory is taken when its first one is due."""
  for positions in steps:
    number, batch = slots.take()
    for first in range(0, len(positions), PORTION):
      part = positions[first : first + PORTION]
      rows = {name: values[first : first + PORTION] for name, values in batch.items()}
      yield Portion(part, number, first, rows), batch
