"""Table of the part of a training state that every device of a mesh holds; touches no device."""

import dataclasses
import math
from collections.abc import Sequence

import optax
from jax.sharding import AbstractMesh, Mesh, PartitionSpec

from mixer_jax import models
from mixer_jax.models.parameters import flatten
from mixer_jax.training.step import abstract_state

Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Kind:
  """Parameters that have the same name in every block."""

  name: str
  """With `*` for the number of the block."""
  shapes: tuple[Shape, ...]
  """Different shapes that occur, in order of depth."""
  spec: PartitionSpec
  """Mesh axes that split it."""
  shards: tuple[Shape, ...]
  """Shape of the part that a device holds, for each of them."""


@dataclasses.dataclass(frozen=True)
class Sum:
  """Bytes of a part of the state."""

  whole: int
  per_device: int


@dataclasses.dataclass(frozen=True)
class ShardingTable:
  """Shardings of a training state."""

  kinds: tuple[Kind, ...]
  """Kinds of parameters; the optimizer's moments are split like them."""
  sums: dict[str, Sum]
  """'parameters' and 'optimizer', and 'model_state' where there is any."""


def sharding_table(
  config, optimizer: optax.GradientTransformation, mesh: Mesh | AbstractMesh
) -> ShardingTable:
  """Return the shardings of the state of a model's training on a mesh."""
  state = abstract_state(config, optimizer, mesh)
  params = flatten(state.params)
  kinds: dict[str, Kind] = {}
  for name, kind in models.kinds(list(models.param_shapes(config)), config).items():
    leaf = params[name]
    shape, sharding = leaf.shape, leaf.sharding
    known = kinds.get(kind) or Kind(kind, (), sharding.spec, ())
    if shape not in known.shapes:
      shards = (*known.shards, sharding.shard_shape(shape))
      kinds[kind] = dataclasses.replace(known, shapes=(*known.shapes, shape), shards=shards)
  parts = {
    'parameters': state.params,
    'optimizer': (state.opt_state, state.step),
    'model_state': state.model_state,
  }
  return ShardingTable(
    tuple(kinds.values()), {name: _sum(tree) for name, tree in parts.items() if tree}
  )


def _sum(tree) -> Sum:
  whole = per_device = 0
  for leaf in flatten(tree).values():
    whole += math.prod(leaf.shape) * leaf.dtype.itemsize
    per_device += math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
  return Sum(whole, per_device)


def as_text(table: ShardingTable) -> str:
  """Return a line for each kind of parameter, and the sums."""
  lines, width = [], max(44, *(len(kind.name) for kind in table.kinds))
  for kind in table.kinds:
    axes = ', '.join('whole' if axis is None else str(axis) for axis in kind.spec) or 'whole'
    sizes, shards = _sizes(kind.shapes), _sizes(kind.shards)
    lines.append(f'  {kind.name:{width}} {sizes:18} {axes:22} {shards} per device')
  for name, total in table.sums.items():
    share = total.whole / total.per_device
    lines.append(
      f'{name}: {total.whole / 2**20:,.1f} MiB, {total.per_device / 2**20:,.1f} per device '
      f'(1/{share:.1f})'
    )
  return '\n'.join(lines)


def _sizes(shapes: Sequence[Shape]) -> str:
  """(64, 3) and (128, 3) -> '64–128 × 3'."""
  ends = [(min(axis), max(axis)) for axis in zip(*shapes, strict=True)]
  return ' × '.join(str(a) if a == b else f'{a}–{b}' for a, b in ends) or 'one'
