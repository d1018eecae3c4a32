"""`mixer-jax predict`: the most probable classes of image files."""

import json

from mixer_jax.commands import flags
from mixer_jax.errors import StorageError, UserError
from mixer_jax.parallel import processes
from mixer_jax.runlog import console
from mixer_jax.runs import pod
from mixer_jax.runs.predictions import predict


def main(argv: list[str]) -> None:
  """Print the most probable classes of each image with their probabilities."""
  parser = flags.Parser('predict', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_argument(
    '--labels',
    metavar='FILE',
    help='class names: a text file, one per line, a JSON list, or a TFDS data set (imagenet2012)',
  )
  parser.add_argument('--top', type=int, default=5, metavar='K', help='classes per image (5)')
  parser.add_reading()
  parser.add_argument(
    '--loss',
    choices=('softmax', 'sigmoid'),
    help='that the model was trained with, for a weights file: a state contains it',
  )
  parser.add_argument('--json', action='store_true', help='print one JSON object per line')
  parser.add_argument(
    'images', nargs='+', metavar='IMAGE', help='image file, folder of such, or pattern'
  )
  args = parser.parse_flags(argv)
  console.setup_console()
  pod.join('predict', pod.settings_of(vars(args)))
  failed: dict[str, list[str]] = {'does not decode': [], 'cannot be read': []}
  count = 0
  for prediction in predict(
    args.checkpoint,
    args.images,
    top=args.top,
    labels=args.labels,
    loss=args.loss,
    **flags.reading(args),
  ):
    count += 1
    if prediction.top is None:
      failed[prediction.error].append(prediction.image)
    if not processes.is_main():
      continue
    if args.json:
      flags.show(json.dumps(prediction.to_json()))
    elif prediction.top is not None:
      flags.show(prediction.text())
  undecodable, unread = (
    f'{len(names)} of {count} images {what}: {", ".join(names)}' if names else ''
    for names, what in zip(failed.values(), ('did not decode', 'could not be read'), strict=True)
  )
  if unread:
    raise StorageError('; '.join(filter(None, (unread, undecodable))))
  if undecodable:
    raise UserError(undecodable)
