"""`mixer-jax convert`: a checkpoint as a weights file."""

import logging

from mixer_jax.checkpoints import layouts
from mixer_jax.checkpoints.convert import convert
from mixer_jax.commands.flags import CHECKPOINT, Parser
from mixer_jax.models import variant_of
from mixer_jax.runlog import console
from mixer_jax.runs.fields import parse_numbers

log = logging.getLogger(__name__)


def main(argv: list[str]) -> None:
  """Reads any checkpoint, writes a weights file, and reports what the file does not hold."""
  parser = Parser('convert', __doc__ or '')
  parser.add_argument('source', metavar='SRC', help=CHECKPOINT)
  parser.add_argument('target', metavar='DST', help='*.npz or *.safetensors, local or gs://…')
  parser.add_argument(
    '--layout',
    choices=layouts.names_to_write(),
    help='default: modern for .npz, timm for .safetensors',
  )
  parser.add_argument(
    '--image-size', type=int, help='give it this image size, pixels; of a Mixer a multiple'
  )
  parser.add_argument('--num-classes', type=int, help='replace the head by a new one of zeros')
  parser.add_argument('--blocks', help='keep only these blocks, as in 0,1,3')
  parser.add_heads()
  args = parser.parse_flags(argv)
  console.setup_console()
  written = convert(
    args.source,
    args.target,
    layout=args.layout,
    image_size=args.image_size,
    num_classes=args.num_classes,
    blocks=None if args.blocks is None else parse_numbers('--blocks', args.blocks, int),
    num_heads=args.num_heads,
  )
  log.info('%s: %s, %s layout', written.file, variant_of(written.config), written.layout)
  for warning in written.warnings:
    log.warning('%s', warning)
