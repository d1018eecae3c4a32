"""`mixer-jax cka-study`: CKA and probes of models of several depths, widths and seeds."""

from mixer_jax.commands.flags import Parser, show


def main(argv: list[str]) -> None:
  """Trains each model from several seeds, then compares all layers of all of them.

  The same command again resumes. Every model is also compared as it was before training. WORKDIR
  holds a folder for each run, `cka_study.json`, `cka_study.npz`, a picture for each kind of
  comparison and kernel, and `probes.png`. Images are those of the model that is first by its
  name.
  """
  parser = Parser('cka-study', __doc__ or '')
  parser.add_config(
    required=True,
    example='configs/cka_study.py:digits',
    note=', as in --config.models.blocks_8.total_steps=100',
  )
  parser.add_argument('--workdir', required=True, help='folder of all runs, local or gs://…')
  args, overrides = parser.parse(argv)

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import cka

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  report = cka.run(config, args.workdir)
  if report:
    show(report)
