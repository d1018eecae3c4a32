"""`mixer-jax plan`: memory, time and cost of a run on a TPU slice, compiled without one."""

import json
import signal
import threading
from typing import Any

from mixer_jax import storage
from mixer_jax.commands import flags
from mixer_jax.errors import DoesNotFitError, UserError
from mixer_jax.parallel.chips import GIB
from mixer_jax.paths import user_path
from mixer_jax.pictures import run_pictures
from mixer_jax.planning import plan, plan_text
from mixer_jax.runlog import console
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig


def main(argv: list[str]) -> None:
  """Print a plan, or a table of several; write the files that are asked for."""
  parser = flags.Parser('plan', __doc__ or '')
  parser.add_config(required=True, example='configs/pretrain.py:L/16,imagenet21k')
  where = parser.add_mutually_exclusive_group(required=True)
  where.add_argument(
    '--topology', metavar='NAME', help="a slice: v3:4x4, or gcloud's name for it, v3-32"
  )
  where.add_argument('--topologies', metavar='NAMES', help='a table of several, as v3:2x2,v3:4x4')
  parser.add_argument(
    '--input',
    metavar='FILE',
    help='JSON of bench --what=input on a host, for the rate of the input',
  )
  parser.add_argument('--json', metavar='FILE', help='also write the plan there; - is stdout')
  parser.add_argument('--plot', metavar='FILE', help='PNG of time and cost of --topologies')
  parser.add_argument(
    '--suggest', action='store_true', help='also try remat, fsdp, micro-batches, a smaller batch'
  )
  args, overrides = parser.parse(argv)
  terminal = console.setup_console()
  if args.plot and not args.topologies:
    raise UserError('--plot draws --topologies: name several')
  if args.suggest and args.topologies:
    raise UserError('--suggest is for one --topology')
  if args.plot == '-':
    raise UserError('--plot is a picture: name a file for it')
  flags.check_targets({'json': args.json, 'plot': args.plot})
  config = RunConfig.from_fields(load_config(args.config, overrides))
  # Ctrl-C must raise here: the compiler runs in a child process, which must not outlive this one.
  if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)
  names = args.topologies.split(',') if args.topologies else [args.topology]
  plans = plan.plan_all(config, names, input_file=args.input)
  reports = [made.report() for made in plans]
  if args.topologies:
    rows = plan_text.table([made.program.topology for made in plans], reports)
    flags.show(f'{rows}\n{plan_text.table_note(reports)}', args.json)
  else:
    flags.show(plan_text.full(plans[0], args.config), args.json)
  if args.suggest:
    tried = {change: made.report() for change, made in plan.try_suggestions(plans[0]).items()}
    flags.show(plan_text.table(list(tried), list(tried.values())), args.json)
    reports[0]['suggestions'] = tried
  flags.write(args.json, json.dumps(reports if args.topologies else reports[0], indent=2) + '\n')
  if args.plot:
    terminal.say(_plotted(args.plot, reports))
  if not any(made.fits for made in plans):
    missing = min(made.needed - made.topology.chip.memory for made in plans)
    hint = '' if args.suggest else ': --suggest tries changes that may help'
    raise DoesNotFitError(f'does not fit, by {max(missing, 0) / GIB:.2f} GiB per core{hint}')


def _plotted(file: str, reports: list[dict[str, Any]]) -> str:
  """Write the picture of the plans that fit; returns a line for the screen."""
  rows = [report for report in reports if report['fits']]
  if not rows:
    return 'no slice fits: nothing to plot'
  picture = run_pictures.costs(rows)
  storage.write_retried(file, lambda: user_path(file).write_bytes(picture))
  return f'{file}: {len(rows)} slices'
