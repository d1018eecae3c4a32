"""`mixer-jax attention`: how far each head of attention looks, over images of a split."""

from mixer_jax.commands import flags
from mixer_jax.paths import user_path, write_whole
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.attention import IMAGES, measure_attention
from mixer_jax.runs.loaded_model import open_for_command


def main(argv: list[str]) -> None:
  """Make one pass over the images; write OUTPUT.npz and the pictures."""
  parser = flags.Parser('attention', __doc__ or '')
  parser.add_evaluated(example='configs/evaluate.py:imagenet2012')
  parser.add_argument(
    '--images', type=int, default=IMAGES, help=f'number, spread over the split ({IMAGES})'
  )
  parser.add_argument(
    '--output',
    default='attention',
    help='OUTPUT.npz, OUTPUT_distance.png and, with a class token, OUTPUT_class_token.png are '
    'written (attention)',
  )
  parser.add_json()
  args, overrides = parser.parse(argv)
  console.setup_console()
  for file in ('.npz', '_distance.png', '_class_token.png'):
    flags.check_targets({'output': f'{args.output}{file}', 'json': args.json})
  (loaded,) = open_for_command(
    'attention', [args.checkpoint], args.config, overrides,
    settings=vars(args), **flags.reading(args),
  )  # fmt: skip
  report = measure_attention(loaded, images=args.images)
  if not pod.leave():
    return
  files = {f'{args.output}.npz': report.npz()}
  files |= {f'{args.output}_{name}.png': png for name, png in report.pictures().items()}
  for file, data in files.items():
    write_whole(user_path(file), data)
  flags.report(f'{report.summary()}\n{", ".join(files)}', report.to_json(), args.json)
