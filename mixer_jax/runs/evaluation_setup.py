"""The images and devices that a model is evaluated on."""

import dataclasses
from collections.abc import Iterator

from jax.sharding import AbstractMesh, Mesh

from mixer_jax.data import pipeline
from mixer_jax.data.batch import Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.pipeline import Process
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.hardware import free_memory
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runs.data_splits import open_evaluated, with_held_out
from mixer_jax.runs.run_config import RunConfig

IMAGES_PER_DEVICE = 32
"""Default evaluation batch size per device."""


@dataclasses.dataclass(frozen=True)
class EvaluationSetup:
  """Images, how they are read, and the devices that a model is evaluated on."""

  data: DataConfig
  mesh: Mesh
  batch_size: int
  """Over all devices of all processes, at most."""
  source: Source

  @property
  def images_per_batch(self) -> int:
    """Likewise, of its batches: a split that is smaller than `batch_size` is one batch."""
    return meshes.batch_for(self.mesh, len(self.source), self.batch_size)

  def batches(self, image_size: int) -> Iterator[Batch]:
    """Return this process's part of all batches, on the host; each image is in one of them."""
    check_memory('eval_batch_size', self.images_per_batch, image_size, self.mesh)
    return pipeline.eval_batches(
      self.source,
      self.data,
      image_size=image_size,
      batch_size=self.images_per_batch,
      process=this_process(self.mesh),
    )


def open_evaluation(config: RunConfig, source: Source | None = None) -> EvaluationSetup:
  """Return the evaluation split of a config and its devices.

  Args:
    source: the images, if they are open already.

  Raises:
    UserError: there is no such data set, mesh or batch size.
  """
  data = data_of(config)
  mesh = meshes.make_mesh(**config.mesh.sizes())
  batch_size = eval_batch_size(config, mesh)
  return EvaluationSetup(data, mesh, batch_size, source or open_evaluated(data))


def data_of(config: RunConfig) -> DataConfig:
  """Return the data of a config, see `with_held_out`.

  Raises:
    UserError: it names no data set or recipe.
  """
  data = config.data
  if not data.name:
    raise UserError('no data set: set --config.data.name, such as digits or imagenet2012')
  check_recipe(data)
  return with_held_out(data)


def check_recipe(data: DataConfig) -> None:
  """Raises `UserError` if the recipe is still to be taken from a checkpoint."""
  if data.takes_recipe_of_checkpoint:
    raise UserError(
      f'config.data.eval_recipe is {data.eval_recipe!r}, and there is none: name a recipe'
    )


def eval_batch_size(config: RunConfig, mesh: Mesh | AbstractMesh) -> int:
  """Return the images per evaluation batch, over all devices of this mesh."""
  size = config.eval_batch_size or IMAGES_PER_DEVICE * mesh.size
  meshes.check_batch(mesh, size, name='eval_batch_size')
  return size


def check_memory(name: str, batch_size: int, image_size: int, mesh: Mesh) -> None:
  """Raise `UserError` if this process's part of a batch is larger than the memory of the host."""
  size, free = batch_size // this_process(mesh).count * image_size**2 * 3, free_memory()
  if free is not None and size > free:
    raise UserError(
      f'config.{name}={batch_size:,}: a batch takes {size / 2**30:,.0f} GiB of the host, which has '
      f'{free / 2**30:,.0f} left: take a smaller one'
    )


def this_process(mesh: Mesh) -> Process:
  """Return which part of each batch belongs to this process."""
  return Process(*meshes.own_part(mesh))
