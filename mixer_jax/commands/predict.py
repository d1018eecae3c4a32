"""`mixer-jax predict`: the most probable classes of image files."""

import jax
import numpy as np
from etils import epath

from mixer_jax import checkpoints, models
from mixer_jax.commands import arguments, screen
from mixer_jax.data import preprocess
from mixer_jax.errors import UserError

_TOP = 5


def main(argv: list[str]) -> None:
  """Prints, for each image, its five most probable classes with their probabilities."""
  parser = arguments.Parser('predict', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help='a workdir, one of its steps, or .npz')
  parser.add_argument('images', nargs='+', metavar='IMAGE', help='JPEG, PNG or WebP file')
  args = parser.parse_flags(argv)
  screen.open_screen()
  config, params, metadata = checkpoints.load_with_metadata(args.checkpoint)
  params = jax.device_put(params)
  names = metadata.get('classes') or [f'class {i}' for i in range(config.num_classes)]
  how = metadata.get('eval_resize', 'resmall')
  fraction = metadata.get('eval_crop_fraction', 0.875)
  unread = []
  for name in args.images:
    try:
      data = epath.Path(name).read_bytes()
      image = preprocess.eval_image(preprocess.decode(data), config.image_size, how, fraction)
    except OSError as error:
      unread.append(f'{name}: {error.strerror or error}')
      continue
    except preprocess.UndecodableError as error:
      unread.append(f'{name} does not decode ({error})')
      continue
    probabilities = np.asarray(jax.nn.softmax(models.apply(config, params, image[None])[0]))
    print(name)
    for index in np.argsort(-probabilities, kind='stable')[:_TOP]:
      print(f'  {100 * probabilities[index]:6.2f} %  {names[index]}')
  if unread:
    raise UserError('; '.join(unread))
