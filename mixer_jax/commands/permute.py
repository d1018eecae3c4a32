"""`mixer-jax permute`: what shuffled pixels cost models of several families (section 3.4)."""

from mixer_jax.commands.flags import Parser, show


def main(argv: list[str]) -> None:
  """Trains each model on each kind of input from several seeds, and compares them.

  The same command again resumes. WORKDIR holds a folder for each run, `permute.json` and
  `permute.png`.
  """
  parser = Parser('permute', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/permutation.py:digits',
    note=', as in --config.models.mixer.total_steps=100',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import permutation

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  report = permutation.run(config, args.workdir)
  if report:
    show(report)
