"""`mixer-jax shardings`: what each device holds of a training state, in bytes."""

import json

from mixer_jax.commands.flags import Parser, show
from mixer_jax.planning.run_shardings import run_shardings
from mixer_jax.runlog import console
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig


def main(argv: list[str]) -> None:
  """Prints a row for each kind of parameter, and sums; computes nothing on a device."""
  parser = Parser('shardings', __doc__ or '')
  parser.add_config(required=True)
  parser.add_argument('--devices', type=int, required=True, help='of all processes')
  parser.add_argument('--json', action='store_true', help='print the sums as a JSON object')
  args, overrides = parser.parse(argv)
  console.setup_console()
  config = RunConfig.from_fields(load_config(args.config, overrides))
  shardings = run_shardings(config, args.devices)
  show(json.dumps(shardings.to_json()) if args.json else shardings)
