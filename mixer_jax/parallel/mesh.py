"""The mesh of devices, and the rules that give every array of a state its sharding.

pjit in today's JAX: `jax.jit` with the shardings made here. The model and the step
hold no sharding code. Axes: `data` splits the batch; `fsdp` splits the batch, the
parameters and the optimizer's moments; `model` splits the hidden width of both MLPs.
"""

import math
import re
from collections.abc import Iterable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixer_jax.errors import UserError

AXES = ('data', 'fsdp', 'model')

RULES = (
  (r'(token|channel)_mixing/Dense_0/kernel$', P('fsdp', 'model')),
  (r'(token|channel)_mixing/Dense_0/bias$', P('model')),
  (r'(token|channel)_mixing/Dense_1/kernel$', P('model', 'fsdp')),
  (r'(token|channel)_mixing/Dense_1/bias$', P()),
  (r'stem/kernel$', P(None, None, None, 'fsdp')),
  (r'head/kernel$', P('fsdp')),
  (r'(stem|head)/bias$', P()),
  (r'(LayerNorm_[01]|pre_head_layer_norm)/(scale|bias)$', P()),
  (r'(Conv_[012]|projection)/kernel$', P(None, None, None, 'fsdp')),
  (r'(GroupNorm_[012]|pre_head_group_norm)/(scale|bias)$', P()),
  (r'(^|/)(step|count)$', P()),
)
"""(pattern on the end of a leaf's path, how its axes are split); a leaf matches exactly one.

The moments of an optimizer end in their parameter's path, so they follow it.
"""


def make_mesh(data: int = -1, fsdp: int = 1, model: int = 1, *, devices=None) -> Mesh:
  """A mesh over these devices (all, of all processes); one size may be -1, "the rest".

  Raises:
    UserError: the sizes do not multiply to the number of devices.
  """
  devices = jax.devices() if devices is None else devices
  sizes = _sizes(len(devices), [data, fsdp, model])
  return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)


def abstract_mesh(count: int, data: int = -1, fsdp: int = 1, model: int = 1) -> AbstractMesh:
  """As `make_mesh`, of `count` devices that need not be here: to ask for shardings only."""
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
  """How the leading axis of a batch is split: over `data` and `fsdp`."""
  return NamedSharding(mesh, P(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
  """A whole copy on every device."""
  return NamedSharding(mesh, P())


def shardings(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
  """The sharding of every leaf of a state, by `RULES` on its path.

  Leaves have a `shape`. An axis that the mesh does not divide evenly stays whole.

  Raises:
    ValueError: a leaf that no rule, or more than one, speaks of.
  """

  def leaf_sharding(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator='/')
    specs = [spec for pattern, spec in RULES if re.search(pattern, name)]
    if len(specs) != 1:
      raise ValueError(f'{len(specs)} sharding rules match {name}: exactly one must')
    fits = [
      axis if axis and dim % mesh.shape[axis] == 0 else None
      for axis, dim in zip(specs[0], leaf.shape, strict=False)
    ]
    return NamedSharding(mesh, P(*fits))

  return jax.tree_util.tree_map_with_path(leaf_sharding, tree)


def check_batch(
  mesh: Mesh | AbstractMesh, batch_size: int, accumulate: int = 1, *, name: str = 'batch_size'
) -> None:
  """Raises `UserError` unless every device gets the same number of examples a micro-batch."""
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if batch_size < 1 or batch_size % (ways * accumulate):
    parts = f'{ways} devices' + (f' × {accumulate} micro-batches' if accumulate > 1 else '')
    unit = ways * accumulate
    near = max(round(batch_size / unit), 1) * unit
    raise UserError(f'{name} {batch_size} cannot be shared evenly by {parts}: take {near}')


def put(mesh: Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
  """This process's rows of a global batch -> global arrays on the mesh."""
  sharding = batch_sharding(mesh)
  return {
    name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in batch.items()
  }


def put_all(mesh: Mesh, batches: Iterable[dict[str, np.ndarray]]) -> Iterator[dict[str, jax.Array]]:
  """Each batch `put`, when it is asked for."""
  for batch in batches:
    yield put(mesh, batch)


def put_replicated(mesh: Mesh, tree: Any) -> Any:
  """Host arrays, the same in every process -> arrays sharded by `RULES`."""
  return jax.tree.map(
    lambda leaf, sharding: jax.make_array_from_callback(
      leaf.shape, sharding, lambda index: np.asarray(leaf)[index]
    ),
    tree,
    shardings(mesh, tree),
  )
