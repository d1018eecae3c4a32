"""`mixer-jax data`: prepare a data set, check every record, or show it as training sees it."""

from mixer_jax import storage
from mixer_jax.commands import flags
from mixer_jax.data.preparation import prepare_data_set
from mixer_jax.errors import UserError, printable
from mixer_jax.paths import user_path
from mixer_jax.runlog import console
from mixer_jax.runs import data_inspection
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig


def main(argv: list[str]) -> None:
  """Run one of the three tasks."""
  tasks = {'prepare': _prepare, 'check': _check, 'show': _show}
  parser = flags.Parser('data', __doc__ or '')
  parser.add_argument('task', choices=tasks, help='followed by --help, for the flags of one')
  if argv and argv[0] in tasks:
    return tasks[argv[0]](argv[1:])
  args = parser.parse_flags(argv)
  raise AssertionError(f'{args.task} is a task')


def _prepare(argv: list[str]) -> None:
  parser = flags.Parser('data prepare', 'prepare: download a TFDS data set and prepare it')
  parser.add_argument(
    'name',
    metavar='NAME',
    help='a TFDS name, such as cifar10 or imagenet2012; imagenet21k; or a task, vtab/clevr_count',
  )
  parser.add_argument('--data-dir', help="default: $TFDS_DATA_DIR, or TFDS's own")
  parser.add_argument(
    '--classes',
    type=int,
    metavar='N',
    help='classes in the archive of imagenet21k, where it is not the fall-2011 release',
  )
  args = parser.parse_flags(argv)
  terminal = console.setup_console()
  name = prepare_data_set(args.name, args.data_dir or '', classes=args.classes)
  terminal.say(f'{name} is prepared')


def _check(argv: list[str]) -> None:
  parser = flags.Parser('data check', 'check: read and decode every record')
  parser.add_config(required=True)
  args, overrides = parser.parse(argv)
  console.setup_console()
  data = RunConfig.from_fields(load_config(args.config, overrides)).data
  unusable = 0
  for result in data_inspection.check_data(data):
    flags.show('\n'.join([*map(printable, result.fault_lines()), result.summary()]))
    unusable += len(result.faults)
  if unusable:
    raise UserError(
      f'{unusable} records cannot be used: training stops at an image that does not decode (unless '
      '--config.data.undecodable=skip), evaluation leaves it out; a wrong label stops both'
    )


def _show(argv: list[str]) -> None:
  parser = flags.Parser('data show', 'show: images as training sees them, and RandAugment')
  parser.add_config(required=True)
  parser.add_argument('--output', default='augment.png', metavar='FILE', help='PNG (augment.png)')
  args, overrides = parser.parse(argv)
  terminal = console.setup_console()
  flags.check_targets({'output': args.output})
  config = RunConfig.from_fields(load_config(args.config, overrides))
  sheet = data_inspection.training_sheet(config)
  storage.write_retried(args.output, lambda: user_path(args.output).write_bytes(sheet))
  terminal.say(
    f'{args.output}: {config.data.name} as training sees it, and all operations of RandAugment'
  )
