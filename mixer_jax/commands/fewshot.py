"""`mixer-jax fewshot`: ridge regression on a checkpoint's features of a few images per class."""

from mixer_jax.commands import flags
from mixer_jax.evaluation.fewshot import PAPER, FewShotConfig
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.evaluation import few_shot
from mixer_jax.runs.fields import parse_numbers
from mixer_jax.runs.loaded_model import open_for_command


def main(argv: list[str]) -> None:
  """Print a line for each number of shots: the mean over seeds, and their deviation."""
  parser = flags.Parser('fewshot', __doc__ or '')
  parser.add_evaluated(note='; its train split is learned from', recipe='that of config.fewshot')
  shots = ','.join(map(str, PAPER.shots))
  parser.add_argument('--shots', default=shots, help=f'images per class ({shots})')
  parser.add_argument('--seeds', type=int, default=PAPER.seeds, help=f'choices ({PAPER.seeds})')
  parser.add_argument('--l2', type=float, default=PAPER.l2, help=f'({PAPER.l2:g})')
  parser.add_json()
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json})
  counts = parse_numbers('--shots', args.shots, int)
  settings = FewShotConfig(counts, args.seeds, args.l2, PAPER.constant, PAPER.max_reads)
  (loaded,) = open_for_command(
    'fewshot', [args.checkpoint], args.config, overrides,
    settings=vars(args), **flags.reading(args),
  )  # fmt: skip
  report = few_shot(loaded, settings, args.recipe)
  if pod.leave():
    flags.report(report.summary(), report.to_json(), args.json)
