"""`mixer-jax inspect`: what a checkpoint is."""

import json

from mixer_jax.checkpoints import describe, read
from mixer_jax.commands.flags import CHECKPOINT, Parser, show
from mixer_jax.runlog import console


def main(argv: list[str]) -> None:
  """Reads the complete checkpoint, so that all that is printed is of arrays that are intact."""
  parser = Parser('inspect', __doc__ or '')
  parser.add_argument('checkpoint', metavar='SRC', help=CHECKPOINT)
  parser.add_heads()
  parser.add_argument('--json', action='store_true', help='print a JSON object')
  args = parser.parse_flags(argv)
  console.setup_console()
  checkpoint = read(args.checkpoint, num_heads=args.num_heads)
  about = {'checkpoint': args.checkpoint, **describe.describe(checkpoint)}
  show(json.dumps(about) if args.json else describe.as_text(about))
