"""One global order of examples, split into the batches of this process.

The seed and the position p in the order decide which example is used and how it is augmented.
Step n takes positions n·B to (n+1)·B; process i of P takes the i-th of P contiguous parts. A step
therefore has the same global batch on any number of hosts and after any restart, and a run's
position in the data is its step.
"""

import dataclasses
import itertools
from collections.abc import Generator, Iterable, Sequence

from mixer_jax.data.batch import Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.examples import EvaluationExamples, TrainingExamples
from mixer_jax.data.parallelism import Parallelism, chosen
from mixer_jax.data.portions import Alone, Team, Threads, filled
from mixer_jax.data.slots import Layout, Slots
from mixer_jax.data.source import Source
from mixer_jax.data.workers import Workers


@dataclasses.dataclass(frozen=True)
class Process:
  """Index of a process, and the number of processes."""

  index: int = 0
  count: int = 1

  def positions(self, step: int, batch_size: int) -> Sequence[int]:
    """Return the positions of this process's part of the global batch of a step."""
    local = batch_size // self.count
    first = step * batch_size + self.index * local
    return range(first, first + local)


def train_batches(
  source: Source,
  config: DataConfig,
  *,
  image_size: int,
  batch_size: int,
  seed: int,
  first_step: int = 0,
  process: Process | None = None,
  skipped: set[str] | None = None,
) -> Generator[Batch, None, None]:
  """Yield endless training batches of this process, from `first_step` on.

  Every epoch is a new permutation of all examples; none is dropped at its end. `batch_size` is the
  global one. An image that does not decode raises `UserError`, or is logged, replaced and added to
  `skipped` (see `data_config.UNDECODABLE`). A missing label raises `UserError`.

  Threads and worker processes end when the generator is closed.
  """
  return _batches(
    TrainingExamples(source, config, image_size, seed),
    chosen(config, source, image_size),
    batch_size,
    process or Process(),
    itertools.count(first_step),
    set() if skipped is None else skipped,
  )


def eval_batches(
  source: Source,
  config: DataConfig,
  *,
  image_size: int,
  batch_size: int,
  process: Process | None = None,
) -> Generator[Batch, None, None]:
  """Yield every example of the split once, in order; the last batch is padded and masked.

  All processes get the same number of batches. An image that does not decode is logged and masked;
  its index is not `FILLER`, so it can be counted. One that cannot be read raises, unless the source
  may lack it.
  """
  return _batches(
    EvaluationExamples(source, config, image_size),
    chosen(config, source, image_size, len(source)),
    batch_size,
    process or Process(),
    range(-(-len(source) // batch_size)),
    set(),
  )


def _batches(
  examples: TrainingExamples | EvaluationExamples,
  parallelism: Parallelism,
  batch_size: int,
  process: Process,
  steps: Iterable[int],
  skipped: set[str],
) -> Generator[Batch, None, None]:
  """Yield the batches of these steps; nothing is started before the first is asked for."""
  workers, threads = parallelism
  slots = Slots(Layout(batch_size // process.count, examples.columns()), shared=workers > 0)
  team: Team
  if workers:
    team = Workers(examples, slots, workers, threads)
  elif threads:
    team = Threads(examples, threads)
  else:
    team = Alone(examples)
  positions = (process.positions(step, batch_size) for step in steps)
  yield from filled(team, slots, positions, parallelism.ahead(examples.config.prefetch), skipped)
