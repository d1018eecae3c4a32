"""`mixer-jax predict`: the most probable classes of image files."""

import dataclasses
import json
import logging
from collections.abc import Sequence
from typing import Any

import jax
from etils import epath

from mixer_jax import checkpoints, models
from mixer_jax.checkpoints import Checkpoint
from mixer_jax.commands import flags
from mixer_jax.data import folders, pipeline, recipes
from mixer_jax.data.catalog import class_ids, in_english
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.paths import is_regular, user_path
from mixer_jax.runlog import console
from mixer_jax.runs import checkpoint_labels, experiment, pod

log = logging.getLogger(__name__)

_THREADS = 16


def main(argv: list[str]) -> None:
  """Prints, for each image, its most probable classes with their probabilities."""
  parser = flags.Parser('predict', __doc__ or '')
  parser.add_argument('--checkpoint', required=True, help=flags.CHECKPOINT)
  parser.add_argument(
    '--labels',
    metavar='FILE',
    help='class names: a text file with one a line, a JSON list, or a TFDS data set (imagenet2012)',
  )
  parser.add_argument('--top', type=int, default=5, metavar='K', help='classes an image (5)')
  parser.add_reading()
  parser.add_argument('--json', action='store_true', help='print a JSON object a line')
  parser.add_argument(
    'images', nargs='+', metavar='IMAGE', help='JPEG, PNG or WebP file, folder of such, or pattern'
  )
  args = parser.parse_flags(argv)
  console.setup_console()
  if args.top < 1:
    raise UserError(f'--top must be at least 1, is {args.top}')
  pod.join('predict', pod.settings_of(vars(args)))
  files = processes.together(lambda: folders.find_images(args.images))
  processes.check_same({'the list of images': ' '.join(map(str, files))})
  checkpoint = processes.together(lambda: checkpoints.read(args.checkpoint))
  checkpoint = checkpoints.with_arithmetic(checkpoint, args.gelu or '', args.input_range or '')
  names = processes.together(lambda: _names(args.labels, checkpoint))
  recipe, fraction = (
    (args.recipe, 0.875) if args.recipe else checkpoint_labels.recipe_of(checkpoint)
  )
  model = checkpoint.config
  how = recipes.describe(recipe, model.image_size, fraction, model.input_range)
  log.info('%s; %s', how, models.activation(model))

  mesh = meshes.make_mesh()
  step = classify.make_top_step(model, mesh, args.top)
  params = meshes.put_replicated(mesh, checkpoint.params)
  unread = []
  permutation = checkpoint_labels.permutation_of(checkpoint)
  for batch in _batches(files, recipe, fraction, model.image_size, permutation):
    seen = jax.device_get(step(params, meshes.put(mesh, batch)))
    for row, index in enumerate(seen['index']):
      if index == pipeline.FILLER:
        continue
      best = zip(seen['class'][row].tolist(), seen['probability'][row].tolist(), strict=True)
      if not seen['mask'][row]:
        unread.append(str(files[index]))
        best = None
      if processes.is_main():
        _tell(str(files[index]), best, names, as_json=args.json)
  if unread:
    raise UserError(f'{len(unread)} of {len(files)} images did not decode: {", ".join(unread)}')


def _batches(
  files: Sequence[epath.Path],
  recipe: str,
  fraction: float,
  size: int,
  permutation: dict[str, Any],
):
  unlabelled = Source('image', ('',), folders.Files(files, [0] * len(files)))
  config = pipeline.evaluation_only(
    'image',
    recipe=recipe,
    crop_fraction=fraction,
    threads=min(_THREADS, len(files)),
    prefetch=experiment.IMAGES_PER_DEVICE,
  )
  devices = jax.device_count()
  most = -(-len(files) // devices)
  return pipeline.eval_batches(
    unlabelled,
    dataclasses.replace(config, **permutation),
    image_size=size,
    batch_size=devices * min(experiment.IMAGES_PER_DEVICE, most),
    process=experiment.this_process(),
  )


def _tell(file: str, best: Any, names: Sequence[str], *, as_json: bool) -> None:
  if as_json:
    row: dict[str, Any] = {'image': file}
    if best is None:
      row['error'] = 'does not decode'
    else:
      row['top'] = [{'class': c, 'name': names[c], 'probability': p} for c, p in best]
    print(json.dumps(row), flush=True)
  elif best is not None:
    print(file)
    for c, p in best:
      print(f'  {100 * p:6.2f} %  {names[c]}', flush=True)


def _names(labels: str | None, checkpoint: Checkpoint) -> Sequence[str]:
  """A name for each output of the head."""
  size, published = checkpoint.config.num_classes, checkpoint.published
  if labels:
    names = _read_names(labels)
    if len(names) != size:
      raise UserError(f'--labels={labels} has {len(names)} names, the model {size} classes')
    return names
  if published and published.classes:
    return in_english(class_ids(published.classes))
  if size == 1000 and not checkpoint.metadata:
    log.info(
      'the file does not tell its class names: --labels=imagenet2012 gives those of ImageNet'
    )
  return checkpoint_labels.classes_of(checkpoint) or [f'class {i}' for i in range(size)]


def _read_names(labels: str) -> Sequence[str]:
  path = user_path(labels)
  if not path.exists():
    try:
      return in_english(class_ids(labels))
    except UserError as error:
      raise UserError(f'--labels={labels}: no such file, and {error}') from error
  if not is_regular(path):
    raise UserError(f'--labels={labels} is no regular file')
  try:
    text = path.read_bytes().decode('utf-8-sig').replace('\r\n', '\n')
    names = json.loads(text) if path.suffix == '.json' else text.removesuffix('\n').split('\n')
  except ValueError as error:
    raise UserError(f'--labels={labels} is not text with a name a line: {error}') from error
  if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
    raise UserError(f'--labels={labels} is not a JSON list of names')
  return names
