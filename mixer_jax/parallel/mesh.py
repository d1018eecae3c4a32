"""The mesh of devices, and the sharding of every array of a state.

`jax.jit` with the shardings made here is what pjit was. The model and the step hold no sharding
code; the table of a model family says which axes of its parameters are split. Axes of the mesh:
`data` splits the batch; `fsdp` splits the batch, the parameters and the optimizer's moments;
`model` splits hidden widths and the heads of attention.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models.parameters import path_text

AXES = ('data', 'fsdp', 'model')


def make_mesh(data: int = -1, fsdp: int = 1, model: int = 1, *, devices=None) -> Mesh:
  """Return a mesh over these devices (default: all of all processes); one size may be -1.

  The size -1 stands for all devices that the other axes leave.

  Raises:
    UserError: the sizes do not multiply to the number of devices, these are of several slices, or
      processes cannot share a batch evenly.
  """
  devices = jax.devices() if devices is None else devices
  slices = {getattr(one, 'slice_index', None) for one in devices if one.platform == 'tpu'}
  if len(slices) > 1:
    raise UserError(f'a mesh is of one TPU slice, and the devices here are of {len(slices)} slices')
  sizes = _sizes(len(devices), [data, fsdp, model])
  mesh = jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
  parts = set(_rows(mesh).values())
  if sum(map(len, parts)) != sizes[0] * sizes[1] or len(set(map(len, parts))) > 1:
    raise UserError(
      f'mesh.model={sizes[2]}: some processes would share a part of a batch and others not: take '
      'a divisor or a multiple of the devices of a process'
    )
  return mesh


def abstract_mesh(count: int, data: int = -1, fsdp: int = 1, model: int = 1) -> AbstractMesh:
  """Return a mesh of `count` devices that need not exist, to compute shardings only."""
  return AbstractMesh(_sizes(count, [data, fsdp, model]), AXES, axis_types=(AxisType.Auto,) * 3)


def _sizes(count: int, sizes: list[int]) -> tuple[int, ...]:
  asked = ', '.join(f'mesh.{axis}={size}' for axis, size in zip(AXES, sizes, strict=True))
  if any(size != -1 and size < 1 for size in sizes) or sizes.count(-1) > 1:
    raise UserError(f'{asked}: sizes are positive, and one of them may be -1 for "the rest"')
  if -1 in sizes:
    sizes[sizes.index(-1)] = count // -math.prod(sizes) or 1
  if math.prod(sizes) != count:
    raise UserError(f'{asked}: does not make a mesh of {count} devices')
  return tuple(sizes)


def batch_sharding(mesh: Mesh) -> NamedSharding:
  """Sharding of a batch: its leading axis is split over `data` and `fsdp`."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  """Sharding of an array of which every device has a full copy."""
  return NamedSharding(mesh, P())


def shardings(mesh: Mesh | AbstractMesh, tree: Any, config=None) -> Any:
  """Return the sharding of every leaf of a state, a tree of params, or a part of one.

  Scalars are replicated. The moments of an optimizer end in their parameter's path, so they are
  split like it. An axis that the mesh does not divide evenly is not split.

  Args:
    tree: its leaves have a `shape`.
    config: the model; None: its family is recognised by the names of the leaves.

  Raises:
    ValueError: a leaf that is no parameter of the family.
  """
  paths, structure = jax.tree_util.tree_flatten_with_path(tree)
  leaves = {path_text(path): leaf for path, leaf in paths}
  axes = models.mesh_axes([name for name, leaf in leaves.items() if leaf.shape], config)

  def leaf_sharding(name, leaf):
    spec = _spec(axes[name]) if leaf.shape else ()
    fits = [
      axis if axis and dim % mesh.shape[axis] == 0 else None
      for axis, dim in zip(spec, leaf.shape, strict=False)
    ]
    return NamedSharding(mesh, P(*fits))

  return structure.unflatten([leaf_sharding(name, leaf) for name, leaf in leaves.items()])


def _spec(axes: tuple[str | None, ...]) -> tuple[str | None, ...]:
  """Mesh axes of an array, each used once, without the trailing axes that are not split.

  Of two array axes for the same mesh axis the last is split. A vector is never split over `fsdp`:
  to gather it would cost more than to keep it.
  """
  if len(axes) == 1:
    axes = (None if axes[0] == 'fsdp' else axes[0],)
  once = [None if axis in axes[i + 1 :] else axis for i, axis in enumerate(axes)]
  while once and once[-1] is None:
    once.pop()
  return tuple(once)


def check_batch(
  mesh: Mesh | AbstractMesh, batch_size: int, accumulate: int = 1, *, name: str = 'batch_size'
) -> None:
  """Check that every device gets the same number of examples of each micro-batch.

  Raises:
    UserError: naming the nearest size that fits.
  """
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size < 1 or batch_size % (ways * accumulate):
    parts = f'{ways} devices' + (f' × {accumulate} micro-batches' if accumulate > 1 else '')
    unit = ways * accumulate
    near = max(round(batch_size / unit), 1) * unit
    raise UserError(f'{name} {batch_size} cannot be shared evenly by {parts}: take {near}')


def batch_for(mesh: Mesh, examples: int, most: int) -> int:
  """Return the global batch size for a pass over so many examples: `most`, or less if one does.

  All devices can share it evenly, as they can `most`, and so can processes.
  """
  unit = mesh.shape['data'] * mesh.shape['fsdp']
  return min(most, max(-(-examples // unit), 1) * unit)


def own_part(mesh: Mesh) -> tuple[int, int]:
  """Return which of how many equal parts of a batch the devices of this process take.

  Processes whose devices differ in their place on the axis `model` alone take the same part.
  """
  rows = _rows(mesh)
  parts = list(dict.fromkeys(rows[process] for process in sorted(rows)))
  return parts.index(rows[jax.process_index()]), len(parts)


def _rows(mesh: Mesh) -> dict[int, frozenset[int]]:
  """Return process -> which shards of a batch its devices take."""
  rows: dict[int, set[int]] = {}
  for row, devices in enumerate(mesh.devices.reshape(-1, mesh.shape['model'])):
    for device in devices:
      rows.setdefault(device.process_index, set()).add(row)
  return {process: frozenset(those) for process, those in rows.items()}


def put(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """Put this process's rows of a global batch on the mesh, as global arrays."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }


def put_all(mesh: Mesh, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
  """Yield each batch after `put`, when it is asked for."""
  for batch in batches:
    yield put(mesh, batch)


def put_replicated(mesh: Mesh, tree: Any, config=None) -> Any:
  """Put host arrays, the same in every process, on the mesh, each with its sharding.

  Args:
    tree: a state, params, or a part of them.
    config: as for `shardings`.
  """
  return jax.tree.map(
    lambda leaf, sharding: jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: np.asarray(leaf)[index]
    ),
    tree,
    shardings(mesh, tree, config),
  )
