"""`mixer-jax sweep`: an experiment with each value of one or two fields, and the best value."""

from mixer_jax.commands.flags import Parser, show
from mixer_jax.errors import UserError


def main(argv: list[str]) -> None:
  """Trains an experiment with each value of a field from several seeds, and compares them.

  The same command again resumes; more values may be added. WORKDIR holds a folder for each run,
  `sweep.json` and `sweep.png`.
  """
  parser = Parser('sweep', __doc__ or '')
  parser.add_config(required=True, example='configs/digits_finetune.py')
  parser.add_argument(
    '--over',
    action='append',
    required=True,
    metavar='config.FIELD=A,B,…',
    help='a field and its values, as in config.optimizer.learning_rate=0.003,0.01,0.03; with a '
    'second --over, each pair of values',
  )
  parser.add_argument('--seeds', type=int, default=1, help='runs with each value (1)')
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)
  texts: dict[str, list[str]] = {}
  for flag in args.over:
    name, _, values = flag.partition('=')
    if not name.startswith('config.') or not values:
      raise UserError(f'--over={flag}: write config.FIELD=A,B, as in config.batch_size=64,128')
    if texts.setdefault(name.removeprefix('config.'), values.split(',')) != values.split(','):
      raise UserError(f'--over={name} is there twice: give all values at once')

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import sweep

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  over = {name: config_file.parse_values(config, name, found) for name, found in texts.items()}
  report = sweep.run(config, args.workdir, over=over, seeds=args.seeds)
  if report:
    show(report)
