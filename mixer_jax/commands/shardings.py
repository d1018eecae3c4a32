"""`mixer-jax shardings`: what each device holds of a training state, in bytes."""

import json

from mixer_jax import models
from mixer_jax.commands.flags import Parser
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning import sharding_table
from mixer_jax.runlog import console
from mixer_jax.runs import config_file, initial_model
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training.optimizer import make_optimizer, make_schedule


def main(argv: list[str]) -> None:
  """Prints a row for each kind of parameter, and sums; computes nothing on a device."""
  parser = Parser('shardings', __doc__ or '')
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
  table = sharding_table.sharding_table(model, optimizer, mesh)
  if args.json:
    sums = {k: {'whole': v.whole, 'a_device': v.per_device} for k, v in table.sums.items()}
    print(json.dumps({'mesh': dict(mesh.shape), **sums}))
    return
  sizes = ' × '.join(f'{mesh.shape[axis]} {axis}' for axis in meshes.AXES)
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  print(f'{models.variant_of(model)} on {args.devices} devices: {sizes}')
  print(f'{config.batch_size} images per update: {config.batch_size // ways} per device')
  print(sharding_table.as_text(table))
