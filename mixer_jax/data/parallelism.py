"""Number of worker processes and threads that read images."""

import os
from typing import NamedTuple

from mixer_jax.data import limits
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.decode import UndecodableError
from mixer_jax.data.portions import PORTION
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError

_CORES = 4
"""Processors from which on workers are started."""
_PER_WORKER = 2
"""Threads of a worker, of which one may wait for storage. More than two threads of a process that
run at the same time take its lock from each other: the images then take up to twice the time."""
_IN_PROCESS = 4
"""Likewise, threads of this process at most."""
_SMALL = 64
"""Side of images, pixels, that are read in less time than it takes to wake a thread."""
_MANY = 5_000
"""Examples of an evaluation that is worth starting workers for."""


class Parallelism(NamedTuple):
  """Those who read.

  Attributes:
    workers: number of processes; 0: threads of this process.
    threads: number of threads of each; 0, without workers: the thread that takes the batches.
  """

  workers: int
  threads: int

  def ahead(self, prefetch: int) -> int:
    """Return the number of examples to begin before they are needed, so that none is idle.

    A worker has its portions in a fixed order, and some take longer than others.
    """
    if not self.threads:
      return 0
    return max(prefetch, PORTION * self.threads * (2 * self.workers or 1))


def chosen(
  config: DataConfig, source: Source, image_size: int, examples: int | None = None
) -> Parallelism:
  """Return what `config.workers` and `config.threads` say; 'auto' is decided here.

  Args:
    image_size: of the model, pixels.
    examples: number of examples to read; None: without end.
  """
  workers, threads = config.workers, config.threads
  is_small = 'auto' in (workers, threads) and _is_small(source, image_size)
  if workers == 'auto':
    is_long = examples is None or examples >= _MANY
    is_wanted = is_long and threads != 0 and not is_small and cores() >= _CORES
    workers = cores() if is_wanted else 0
  if threads == 'auto' and workers:
    threads = _PER_WORKER
  elif threads == 'auto':
    threads = 0 if is_small else min(cores(), _IN_PROCESS)
  return Parallelism(int(workers), max(int(threads), 1) if workers else int(threads))


def cores() -> int:
  """Return the number of processors (hardware threads) that this process may use."""
  if hasattr(os, 'sched_getaffinity'):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1  # macOS


def _is_small(source: Source, image_size: int) -> bool:
  if image_size > _SMALL:
    return False
  try:
    return max(limits.size_of(source[0]['image'])) <= _SMALL
  except (UndecodableError, UserError):  # it is reported when its turn comes
    return False
