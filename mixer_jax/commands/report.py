"""`mixer-jax report`: runs and studies on one HTML page, next to the paper's figures."""

from mixer_jax.commands import flags
from mixer_jax.runlog import console


def main(argv: list[str]) -> None:
  """Each WORKDIR is that of a run, or of a study with its figures, pictures and runs below it."""
  parser = flags.Parser('report', __doc__ or '')
  parser.add_argument(
    'workdirs',
    nargs='+',
    metavar='WORKDIR',
    help='of a training run, or of a study such as those of permute; local or gs://…',
  )
  parser.add_argument(
    '--output', default='report.html', metavar='FILE', help='- is stdout (report.html)'
  )
  args = parser.parse_flags(argv)
  terminal = console.setup_console()
  flags.check_targets({'output': args.output})

  from mixer_jax.webpage import collect  # imports JAX

  document = collect.build_page(args.workdirs)
  flags.write(args.output, document.html)
  if args.output != '-':
    terminal.say(f'{args.output} has {document.summary}')
