"""`mixer-jax scaling`: accuracy of models that are trained on parts of the training images."""

from mixer_jax.commands.flags import Parser, show


def main(argv: list[str]) -> None:
  """Trains each model on each part of its training split, from several seeds, and compares them.

  The same command again resumes. WORKDIR holds a folder for each run, `scaling.json` and
  `scaling.png`.
  """
  parser = Parser('scaling', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/data_scaling.py:digits',
    note=', as in --config.seeds=1 or --config.models.resnet.early_stopping.patience=9',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import scaling

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  report = scaling.run(config, args.workdir)
  if report:
    show(report)
