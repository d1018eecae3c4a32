"""`mixer-jax convert`: a checkpoint as a weights file."""

import dataclasses
import logging

from mixer_jax import checkpoints
from mixer_jax.checkpoints import layouts
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig, variant_of
from mixer_jax.paths import user_path
from mixer_jax.runlog import console
from mixer_jax.runs.fields import parse_numbers

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
  """Reads any checkpoint, writes `.npz` (modern) or `.safetensors` (timm); says what it was."""
  parser = flags.Parser('convert', __doc__ or '')
  parser.add_argument('source', metavar='SRC', help=flags.CHECKPOINT)
  parser.add_argument('target', metavar='DST', help='*.npz or *.safetensors, local or gs://…')
  parser.add_argument(
    '--layout',
    choices=[layout.name for layout in layouts.LAYOUTS.values() if layout.suffix],
    help='default: modern for .npz, timm for .safetensors',
  )
  parser.add_argument('--image-size', type=int, help='grow to this multiple of its pixels')
  parser.add_argument('--num-classes', type=int, help='put a new head of zeros on it')
  parser.add_argument('--blocks', help='leave all but these blocks out, as in 0,1,3')
  args = parser.parse_flags(argv)
  console.setup_console()
  blocks = None if args.blocks is None else parse_numbers('--blocks', args.blocks, int)
  target = user_path(args.target)
  chosen = layouts.layout_to_write(target, args.layout)
  if target.exists():
    raise UserError(f'{target} is there already: remove it, or write to another name')
  if not target.parent.exists() and '://' not in args.target:
    raise UserError(f'no folder {target.parent}: make it first')
  checkpoint = checkpoints.read(args.source)
  config, params = checkpoints.adapted(
    checkpoint, image_size=args.image_size, num_classes=args.num_classes, blocks=blocks
  )
  checkpoints.save(target, config, params, chosen.name)
  log.info('%s: %s, %s layout', target, variant_of(config), chosen.name)
  _warn_of_what_is_lost(config, checkpoint.metadata, chosen.name)


def _warn_of_what_is_lost(config: MixerConfig, metadata: dict, layout: str) -> None:
  defaults = {field.name: field.default for field in dataclasses.fields(MixerConfig)}
  for name in ('gelu', 'input_range'):
    value = getattr(config, name)
    if value != defaults[name]:
      flag = name.replace('_', '-')
      log.warning(
        'a weights file does not tell %s: load(…, %s=%r), predict --%s=%r, evaluate --%s=%r',
        *(name, name, value, flag, value, flag, value),
      )
  if metadata:
    log.warning(
      'a weights file does not tell the classes (--labels=FILE) nor the recipe (--recipe=%s)',
      metadata['eval_recipe'],
    )
  if layout == 'timm' and config.gelu == 'tanh':
    log.warning('timm computes the exact GELU; these weights were trained with tanh')
