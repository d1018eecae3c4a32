"""`mixer-jax shardings`: who holds what of a training state, and the bytes a device."""

import json
import math
import re

from mixer_jax import models
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog import console
from mixer_jax.runs import config_file, initial_model
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training.optimizer import make_optimizer, make_schedule
from mixer_jax.training.step import abstract_state


def main(argv: list[str]) -> None:
  """Prints a row for each kind of array, and sums; computes nothing on a device."""
  parser = flags.Parser('shardings', __doc__ or '')
  parser.add_config(required=True)
  parser.add_argument('--devices', type=int, required=True, help='of all processes')
  parser.add_argument('--json', action='store_true', help='print the sums as a JSON object')
  args, overrides = parser.parse(argv)
  console.setup_console()
  if args.devices < 1:
    raise UserError(f'--devices must be at least 1, is {args.devices}')
  config = RunConfig.from_fields(config_file.load_config(args.config, overrides))
  model = initial_model.model_of(config)
  schedule = make_schedule(config.optimizer, config.total_steps)
  optimizer = make_optimizer(config.optimizer, schedule)
  mesh = meshes.abstract_mesh(args.devices, **config.mesh.sizes())
  meshes.check_batch(mesh, config.batch_size, config.accumulate)
  leaves = flatten(abstract_state(model, optimizer, mesh))

  rows: dict[str, tuple] = {}
  sums = {'parameters': [0, 0], 'optimizer': [0, 0]}
  for name, leaf in leaves.items():
    shard = leaf.sharding.shard_shape(leaf.shape)
    size = leaf.dtype.itemsize
    kind = 'parameters' if name.startswith('params/') else 'optimizer'
    sums[kind][0] += math.prod(leaf.shape) * size
    sums[kind][1] += math.prod(shard) * size
    if kind == 'parameters':  # the optimizer's moments follow their parameters
      row = re.sub(r'MixerBlock_[0-9]+', 'MixerBlock_*', name.removeprefix('params/'))
      rows[row] = leaf.shape, leaf.sharding.spec, shard
  if args.json:
    told = {kind: {'whole': whole, 'a_device': part} for kind, (whole, part) in sums.items()}
    print(json.dumps({'mesh': dict(mesh.shape), **told}))
    return
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  print(f'{models.variant_of(model)} on {args.devices} devices: {sizes}')
  print(f'{config.batch_size} images an update: {config.batch_size // ways} a device')
  for name, (shape, spec, shard) in rows.items():
    axes = ', '.join('whole' if axis is None else str(axis) for axis in spec) or 'whole'
    print(f'  {name:44} {_text(shape):18} {axes:22} {_text(shard)} a device')
  for kind, (whole, part) in sums.items():
    share = whole / part
    print(f'{kind}: {whole / 2**20:,.1f} MiB, {part / 2**20:,.1f} a device (1/{share:.1f})')


def _text(shape: tuple[int, ...]) -> str:
  return ' × '.join(map(str, shape)) or 'one'
