"""`mixer-jax weights`: what a checkpoint has learned, as pictures.

Token mixing and the stem of a Mixer, position embeddings and the stem of a ViT, the stem of a
ResNet.
"""

from mixer_jax.commands import flags
from mixer_jax.paths import user_path, write_whole
from mixer_jax.runlog import console
from mixer_jax.runs.fields import parse_numbers
from mixer_jax.runs.weight_pictures import learned_weights


def main(argv: list[str]) -> None:
  """Write a picture of each part that the model has, and OUTPUT.npz with the numbers."""
  parser = flags.Parser('weights', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_argument('--blocks', help='whose token mixing is shown, as in 0,1,2 (the first three)')
  parser.add_argument(
    '--units', type=int, default=384, help='maximum per picture, from low to high frequency (384)'
  )
  parser.add_argument(
    '--output',
    default='weights',
    help='OUTPUT.npz and, of what the model has, OUTPUT_tokens.png, OUTPUT_positions.png and '
    'OUTPUT_stem.png are written (weights)',
  )
  args = parser.parse_flags(argv)
  console.setup_console()
  for file in ('.npz', '_tokens.png', '_positions.png', '_stem.png'):
    flags.check_targets({'output': f'{args.output}{file}'})
  blocks = None if args.blocks is None else parse_numbers('--blocks', args.blocks, int)
  found = learned_weights(args.checkpoint, blocks=blocks, units=args.units)
  files = {f'{args.output}_{kind}.png': png for kind, png in found.pictures.items()}
  files[f'{args.output}.npz'] = found.npz()
  for file, data in files.items():
    write_whole(user_path(file), data)
  flags.show('\n'.join(found.titles))
  flags.show(', '.join(files))
