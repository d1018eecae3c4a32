"""`mixer-jax weights`: what token mixing and the stem of a checkpoint have learned, as pictures."""

from mixer_jax.commands import flags
from mixer_jax.paths import user_path, write_whole
from mixer_jax.runlog import console
from mixer_jax.runs.fields import parse_numbers
from mixer_jax.runs.weight_pictures import learned_weights


def main(argv: list[str]) -> None:
  """Write OUTPUT_tokens.png, OUTPUT_stem.png, and OUTPUT.npz with orders and frequencies."""
  parser = flags.Parser('weights', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_argument('--blocks', help='whose token mixing is shown, as in 0,1,2 (the first three)')
  parser.add_argument(
    '--units', type=int, default=384, help='maximum per picture, from low to high frequency (384)'
  )
  parser.add_argument(
    '--output',
    default='weights',
    help='OUTPUT_tokens.png, OUTPUT_stem.png and OUTPUT.npz are written (weights)',
  )
  args = parser.parse_flags(argv)
  console.setup_console()
  for file in (f'{args.output}.npz', f'{args.output}_tokens.png', f'{args.output}_stem.png'):
    flags.check_targets({'output': file})
  blocks = None if args.blocks is None else parse_numbers('--blocks', args.blocks, int)
  found = learned_weights(args.checkpoint, blocks=blocks, units=args.units)
  write_whole(user_path(f'{args.output}.npz'), found.npz())
  for kind, png in {'tokens': found.tokens, 'stem': found.stem}.items():
    write_whole(user_path(f'{args.output}_{kind}.png'), png)
  flags.show('\n'.join(found.titles))
  flags.show(f'{args.output}_tokens.png, {args.output}_stem.png, {args.output}.npz')
