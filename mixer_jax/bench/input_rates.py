"""Images/s of the training input for growing numbers of threads and of worker processes.

Images/s can only be measured on as many cores as there are. CPU seconds per image hardly depend
on that number: they say what a host with more cores can do.
"""

import contextlib
import dataclasses
import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

from mixer_jax.bench import cpu_time
from mixer_jax.bench.cpu_time import CpuSeconds
from mixer_jax.data import pipeline
from mixer_jax.data.batch import Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.parallelism import Parallelism, chosen, cores
from mixer_jax.data.pipeline import Process
from mixer_jax.data.source import Source
from mixer_jax.runlog import terminal

_ROUND_SECONDS = 0.5
"""Time that each round is measured for, at least."""
_RATES = (1000, 3000, 10_000, 30_000)
"""Images/s for which the number of cores is reported."""

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TrainingInput:
  """The training batches of this process.

  Attributes:
    batch_size: over all processes.
  """

  source: Source
  config: DataConfig
  image_size: int
  batch_size: int
  process: Process

  def measured(self, parallelism: Parallelism, rounds: int) -> Row:
    """Return the images/s and the CPU time of this process's part of the batches."""
    workers, threads = parallelism
    terminal.live(f'input: {workers} workers, {threads} threads')
    config = dataclasses.replace(self.config, workers=workers, threads=threads)
    batches = pipeline.train_batches(
      self.source,
      config,
      seed=0,
      image_size=self.image_size,
      batch_size=self.batch_size,
      process=self.process,
    )
    with contextlib.closing(batches):
      rates, seconds = timed(batches, parallelism.ahead(config.prefetch), rounds)
    own, of_workers = seconds
    return {
      'workers': workers,
      'threads': threads,
      'images_per_second': statistics.median(rates),
      'cpu_seconds_per_image': None if of_workers is None else own + of_workers,
      'feeding_seconds_per_image': own if workers else None,
    }


def timed(batches: Iterator[Batch], ahead: int, rounds: int) -> tuple[list[float], CpuSeconds]:
  """Return the images/s of each round, and the CPU seconds per image.

  Batches are taken without a pause, so that none is prepared in untimed moments.

  Args:
    ahead: images that are begun before they are needed; the first so many are not counted.
  """
  uncounted = 0
  while uncounted <= ahead:
    uncounted += len(next(batches)['label'])
  rates, total, before = [], 0, cpu_time.used()
  for _ in range(rounds):
    images, seconds, begun = 0, 0.0, time.perf_counter()
    while seconds < _ROUND_SECONDS:
      batch = next(batches)
      images += int(batch['mask'].sum()) if 'mask' in batch else len(batch['label'])
      del batch  # so that its memory is used again
      seconds = time.perf_counter() - begun
    rates.append(images / seconds)
    total += images
  return rates, cpu_time.used().per_image(before, max(total, 1))


def scaling(training: TrainingInput, rounds: int) -> list[Row]:
  """Measure with 1, 2, 4 … threads of this process, then with as many worker processes."""
  powers = itertools.takewhile(lambda n: n < cores(), (2**i for i in itertools.count()))
  counts = [*powers, cores()]
  rows = [training.measured(Parallelism(0, threads), rounds) for threads in counts]
  return rows + [training.measured(Parallelism(workers, 1), rounds) for workers in counts]


def as_configured(training: TrainingInput, rows: list[Row], rounds: int) -> Row:
  """Return the row of what the config says; measures it if it is not among the rows."""
  own = chosen(training.config, training.source, training.image_size)
  for row in rows:
    if (row['workers'], row['threads']) == own:
      return row
  return training.measured(own, rounds)


def extrapolated(row: Row) -> Row:
  """Return what the CPU time per image says about hosts with more cores.

  Args:
    row: of as many workers as there are cores. All were busy, as on a host that trains.
  """
  seconds, feeding = row['cpu_seconds_per_image'], row['feeding_seconds_per_image']
  found = {'cpu_seconds_per_image': seconds, 'feeding_seconds_per_image': feeding}
  if seconds is None:
    return found
  expected = min(row['workers'] / seconds, 1 / feeding)
  return found | {
    'images_per_second_per_core': 1 / seconds,
    'most_images_per_second': 1 / feeding,  # Python's lock keeps that process on one core
    'share_of_expected': row['images_per_second'] / expected,
    'cores_needed': {str(n): n * seconds if n * feeding <= 1 else None for n in _RATES},
  }
