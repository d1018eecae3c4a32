"""`mixer-jax weights`: what token mixing and the stem of a checkpoint have learned, as pictures."""

import numpy as np

from mixer_jax import checkpoints, models
from mixer_jax.analysis import token_units
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig
from mixer_jax.paths import user_path
from mixer_jax.pictures import mosaics
from mixer_jax.runlog import console
from mixer_jax.runs.fields import parse_numbers

_BLOCKS = 3  # as the paper shows


def main(argv: list[str]) -> None:
  """Writes OUTPUT_tokens.png, OUTPUT_stem.png, and OUTPUT.npz with orders and frequencies."""
  parser = flags.Parser('weights', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_argument('--blocks', help='whose token mixing is shown, as in 0,1,2 (the first three)')
  parser.add_argument(
    '--units', type=int, default=384, help='shown of each, at most, from low to high (384)'
  )
  parser.add_argument(
    '--output',
    default='weights',
    help='OUTPUT_tokens.png, OUTPUT_stem.png and OUTPUT.npz are written (weights)',
  )
  args = parser.parse_flags(argv)
  console.setup_console()
  flags.check_targets({'output': f'{args.output}.npz'})
  if args.units < 2:
    raise UserError(f'--units={args.units}: show 2, a pair, or more')
  named = None if args.blocks is None else parse_numbers('--blocks', args.blocks, int)
  config, params = checkpoints.load(args.checkpoint)
  if not isinstance(config, MixerConfig):
    raise UserError(f'{args.checkpoint} is a {models.variant_of(config)}: it mixes no tokens')
  blocks = range(min(_BLOCKS, config.num_blocks)) if named is None else dict.fromkeys(named)

  found, panels = {}, {}
  for block in blocks:
    units = token_units.token_units(config, params, block)
    frequency = token_units.frequencies(units)
    order = token_units.in_opposite_pairs(units, frequency)
    cosines = token_units.pair_cosines(units, order)
    found |= {
      f'block_{block}/order': order,
      f'block_{block}/frequency': frequency,
      f'block_{block}/pair_cosine': cosines,
    }
    shown = token_units.spread(order, args.units)
    panels[_told(f'block {block}', shown, order, frequency, cosines)] = units[shown]
  patches = token_units.stem_patches(params)
  frequency = token_units.frequencies(patches)
  order = np.argsort(frequency, kind='stable')
  found |= {'stem/order': order, 'stem/frequency': frequency}
  shown = token_units.spread(order, args.units, together=1)
  name = f'{args.checkpoint[-60:]}\n'
  side = config.image_size // config.patch_size
  tokens = f'{name}units of token mixing over {side}×{side} tokens, beside their nearest opposites'
  pngs = {
    'tokens': mosaics.mosaics(panels, tokens, paired=True),
    'stem': mosaics.mosaics(
      {_told('stem', shown, order, frequency): patches[shown]},
      f'{name}what the stem weighs of a patch',
      paired=False,
    ),
  }
  np.savez(user_path(f'{args.output}.npz'), **found)
  for kind, png in pngs.items():
    user_path(f'{args.output}_{kind}.png').write_bytes(png)
  for title in panels:
    print(title.replace('\n', ', '))
  print(f'{args.output}_tokens.png, {args.output}_stem.png, {args.output}.npz')


def _told(
  what: str,
  shown: np.ndarray,
  order: np.ndarray,
  frequency: np.ndarray,
  cosines: np.ndarray | None = None,
) -> str:
  count = (
    f'{len(order)} units' if len(shown) == len(order) else f'{len(shown)} of {len(order)} units'
  )
  a = 'pixel' if cosines is None else 'token'
  text = f'{what}: {count}\nfrom {frequency.min():.2f} to {frequency.max():.2f} cycles a {a}'
  if cosines is not None and cosines.size:
    text += f'\ncosine of the pairs {np.median(cosines):.2f} (median)'.replace('-', '−')
  return text
