"""Messages between the process that takes batches and its worker processes."""

import dataclasses
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from mixer_jax.errors import UserError

if TYPE_CHECKING:  # a worker reads messages before it has the memory and time for NumPy
  from mixer_jax.data.examples import Examples, Remark
  from mixer_jax.data.slots import Layout


@dataclasses.dataclass(frozen=True)
class Job:
  """Work that a worker is started for.

  Attributes:
    layout: of the slots.
    threads: number of threads that fill portions.
    workers: number of workers, which share the memory for large images.
  """

  examples: 'Examples'
  layout: 'Layout'
  threads: int
  workers: int


class Task(NamedTuple):
  """A portion of a batch to fill: `rows` rows of a slot, from `first` on."""

  ticket: int
  positions: Sequence[int]
  slot: int
  first: int


class Done(NamedTuple):
  """A portion is filled, or an error ended it."""

  ticket: int
  remarks: 'list[Remark]'
  error: Exception | None = None


class Unable(NamedTuple):
  """A worker cannot begin; nothing else comes from it."""

  error: UserError


class Logged(NamedTuple):
  """A line of a worker's log."""

  record: logging.LogRecord

  def handle(self) -> None:
    """Log it in this process."""
    logger = logging.getLogger(self.record.name)
    if logger.isEnabledFor(self.record.levelno):
      logger.handle(self.record)
