"""Shardings of the training state of a run, from its config; touches no device."""

import dataclasses
from typing import Any

from jax.sharding import AbstractMesh

from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning.sharding_table import ShardingTable, as_text, sharding_table
from mixer_jax.runs.initial_model import model_of
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training.optimizer import make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class RunShardings:
  """Shardings of a run on a mesh of its devices."""

  model: models.ModelConfig
  mesh: AbstractMesh
  batch_size: int
  """Images per update."""
  table: ShardingTable

  def to_json(self) -> dict[str, Any]:
    """Return the sizes of the mesh, and the bytes of each part: `whole` and `a_device`."""
    sums = self.table.sums.items()
    parts = {name: {'whole': s.whole, 'a_device': s.per_device} for name, s in sums}
    return {'mesh': dict(self.mesh.shape), **parts}

  def __str__(self) -> str:
    """Return a line for each kind of parameter, and the sums."""
    shape = self.mesh.shape
    sizes = ' × '.join(f'{shape[axis]} {axis}' for axis in meshes.AXES)
    images = self.batch_size // (shape['data'] * shape['fsdp'])
    return '\n'.join(
      [
        f'{models.variant_of(self.model)} on {self.mesh.size} devices: {sizes}',
        f'{self.batch_size} images per update: {images} per device',
        as_text(self.table),
      ]
    )


def run_shardings(config: RunConfig, devices: int) -> RunShardings:
  """Return the shardings of a run on this many devices, over all processes.

  Raises:
    UserError: the mesh or the batch does not fit the devices.
  """
  if devices < 1:
    raise UserError(f'--devices must be at least 1, is {devices}')
  model = model_of(config)
  optimizer = make_optimizer(config.optimizer, make_schedule(config.optimizer, config.total_steps))
  mesh = meshes.abstract_mesh(devices, **config.mesh.sizes())
  meshes.check_batch(mesh, config.batch_size, config.accumulate)
  return RunShardings(model, mesh, config.batch_size, sharding_table(model, optimizer, mesh))
