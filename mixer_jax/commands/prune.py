"""`mixer-jax prune`: what a model loses without some blocks, and what training on recovers."""

from mixer_jax.commands.flags import CHECKPOINT, Parser, reading, show


def main(argv: list[str]) -> None:
  """Ranks the blocks, removes some, and trains the others on; a table and its picture.

  The same command again resumes. WORKDIR holds `prune.json`, `prune.png`, `measured.json`, and in
  `recovery` a run for each pruned model.
  """
  parser = Parser('prune', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=CHECKPOINT)
  parser.add_config(
    required=True,
    example='configs/prune.py:digits',
    note=', as in --config.recovery.total_steps=100',
  )
  parser.add_reading()
  parser.add_argument('--workdir', required=True, help='folder of the study, local or gs://…')
  args, overrides = parser.parse(argv)

  from mixer_jax.runlog import console
  from mixer_jax.runs import config_file
  from mixer_jax.studies import pruning

  console.setup_console()
  config = config_file.load_config(args.config, overrides)
  report = pruning.run(config, args.workdir, args.checkpoint, **reading(args))
  if report:
    show(report)
