"""`mixer-jax evaluate`: accuracy of a checkpoint on a complete split, every image counted once."""

import json

from mixer_jax.commands import flags
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.evaluation import evaluate
from mixer_jax.runs.loaded_model import open_for_command


def main(argv: list[str]) -> None:
  """Print one line of figures and the published ones; more on request."""
  parser = flags.Parser('evaluate', __doc__ or '')
  parser.add_evaluated(example='configs/evaluate.py:imagenet2012 or configs/evaluate.py:folder:DIR')
  parser.add_json()
  parser.add_argument(
    '--per-class', metavar='FILE', help='also write a CSV row per class, worst first; - is stdout'
  )
  args, overrides = parser.parse(argv)
  console.setup_console()
  flags.check_targets({'json': args.json, 'per-class': args.per_class})
  (loaded,) = open_for_command(
    'evaluate', [args.checkpoint], args.config, overrides,
    settings=vars(args), **flags.reading(args),
  )  # fmt: skip
  report = evaluate(loaded)
  if not pod.leave():
    return
  flags.show(report.summary(), args.json, args.per_class)
  if args.per_class:
    flags.write(args.per_class, report.per_class_csv())
  flags.write(args.json, json.dumps(report.to_json()) + '\n')
