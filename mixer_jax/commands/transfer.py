"""`mixer-jax transfer`: a checkpoint fine-tuned to many tasks, each at its best learning rate."""

from mixer_jax.commands.flags import CHECKPOINT, Parser, show


def main(argv: list[str]) -> None:
  """Tries the learning rates on each task's held-out images, and reports its test images.

  The same command again resumes, run by run. WORKDIR holds a folder for each run,
  `transfer.json` and `transfer.md`. The last state of each run is kept, except those of the runs
  that chose the rate (config.keep_sweep). A task that fails does not stop the others, unless
  there are several processes.
  """
  parser = Parser('transfer', __doc__ or '')
  which = parser.add_mutually_exclusive_group(required=True)
  which.add_argument('--suite', help='all tasks of vtab or avg5')
  which.add_argument('--tasks', metavar='A,B,…', help='these: vtab/dtd,avg5/cifar10')
  parser.add_config(
    required=True,
    example='configs/transfer.py:B/16',
    note=", that of all tasks as in '--config.tasks.*.batch_size=256'",
  )
  parser.add_argument(
    '--checkpoint', help=f"to start from: {CHECKPOINT}; default: the config's init_from"
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import transfer, transfer_report

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  report = transfer.run(
    config,
    args.workdir,
    suite=args.suite or '',
    tasks=args.tasks.split(',') if args.tasks else (),
    checkpoint=args.checkpoint or '',
  )
  if report:
    show(report)
    transfer_report.check_complete(report.values)
