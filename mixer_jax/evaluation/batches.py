"""Batches of a split, and how far it is read."""

from collections.abc import Iterable
from typing import Protocol

from mixer_jax.data import pipeline
from mixer_jax.data.batch import Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.source import Source
from mixer_jax.parallel import mesh as meshes


class Progress(Protocol):
  """Shows how far a split is read, as `runlog.progress.reading` does."""

  def __call__(
    self, batches: Iterable[Batch], batch_size: int, size: int, what: str
  ) -> Iterable[Batch]:
    """Yield the batches; the split has `size` examples, and `what` names them."""
    ...


def read(
  source: Source,
  data: DataConfig,
  image_size: int,
  mesh,
  *,
  batch_size: int,
  process: pipeline.Process | None,
  progress: Progress | None,
) -> Iterable[Batch]:
  """Return the batches of a split, of at most `batch_size` images over all processes.

  Args:
    progress: shows how far it is read.
  """
  fitting = meshes.batch_for(mesh, len(source), batch_size)
  batches = pipeline.eval_batches(
    source, data, image_size=image_size, batch_size=fitting, process=process
  )
  return (
    progress(batches, fitting, len(source), f'images of {source.name}') if progress else batches
  )
