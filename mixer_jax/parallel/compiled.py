"""Programs before and after compilation: the batches that they take, the bytes that they hold."""

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax.parallel import mesh as meshes


def abstract_batch(
  mesh: Mesh, size: int, image_size: int, *, level: str = 'uint8', masked: bool = False
) -> dict[str, jax.ShapeDtypeStruct]:
  """Return shapes, dtypes and shardings of a batch of `size` images over all devices.

  Args:
    level: dtype of the images.
    masked: a batch of an evaluation, with `mask` and `index`.
  """
  rows = {'image': ((size, image_size, image_size, 3), level), 'label': ((size,), 'int32')}
  if masked:
    rows |= {'mask': ((size,), 'bool'), 'index': ((size,), 'int32')}
  sharding = meshes.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)
    for name, (shape, dtype) in rows.items()
  }


def temporary_bytes(program: jax.stages.Compiled) -> int:
  """Return the bytes per device that a running program holds in addition to its arguments."""
  memory = program.memory_analysis()
  assert memory
  return memory.temp_size_in_bytes + memory.output_size_in_bytes - memory.alias_size_in_bytes


def program_bytes(program: jax.stages.Compiled) -> int:
  """Return the bytes per device of a running program: arguments, results and temporaries."""
  memory = program.memory_analysis()
  assert memory
  return memory.argument_size_in_bytes + temporary_bytes(program)


def program_flops(program: jax.stages.Compiled) -> float:
  """Return the FLOPs per device of one run; the compiler counts the body of a loop once."""
  cost = program.cost_analysis()
  assert cost
  return cost['flops']
