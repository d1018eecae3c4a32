"""`mixer-jax probe`: accuracy of a linear classifier on the features after each block."""

from mixer_jax.commands import flags
from mixer_jax.evaluation.probe import DEFAULTS, ProbeConfig
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.evaluation import linear_probe
from mixer_jax.runs.loaded_model import open_for_command


def main(argv: list[str]) -> None:
  """Print a line for each block and for pre_logits."""
  parser = flags.Parser('probe', __doc__ or '')
  parser.add_evaluated(note='; its train split is learned from')
  parser.add_argument(
    '--l2', type=float, default=DEFAULTS.l2, help=f'of the weights ({DEFAULTS.l2})'
  )
  parser.add_argument(
    '--iterations',
    type=int,
    default=DEFAULTS.iterations,
    help=f'maximum number of L-BFGS iterations ({DEFAULTS.iterations})',
  )
  parser.add_json()
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json})
  settings = ProbeConfig(args.l2, args.iterations)
  (loaded,) = open_for_command(
    'probe', [args.checkpoint], args.config, overrides,
    settings=vars(args), **flags.reading(args),
  )  # fmt: skip
  report = linear_probe(loaded, settings)
  if pod.leave():
    flags.report(report.summary(), report.to_json(), args.json)
