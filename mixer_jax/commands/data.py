"""`mixer-jax data`: a data set prepared, checked record by record, or shown as training sees it."""

import collections
import concurrent.futures
import contextlib

import cv2
import numpy as np

from mixer_jax.data import decode, pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.data.pipeline import DataConfig
from mixer_jax.data.prepare import prepare
from mixer_jax.data.randaugment import OPERATIONS
from mixer_jax.data.source import Source
from mixer_jax.data.tasks import find_task, is_task
from mixer_jax.data.tfds_builders import check_name, check_place
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path
from mixer_jax.pictures.contact_sheets import Band, contact_sheet
from mixer_jax.runlog import console
from mixer_jax.runlog.progress import reading
from mixer_jax.runs import config_file, experiment

_MAGNITUDES = (5, 10, 15, 20)
_DRAWS = 9  # of each image
_THREADS = 16
_PART = 1024  # records between two lines of progress


def main(argv: list[str]) -> None:
  """One of the three tasks."""
  tasks = {'prepare': _prepare, 'check': _check, 'show': _show}
  parser = config_file.Parser('data', __doc__ or '')
  parser.add_argument('task', choices=tasks, help='and then --help, for the flags of one')
  if argv and argv[0] in tasks:
    return tasks[argv[0]](argv[1:])
  args = parser.parse_flags(argv)
  raise AssertionError(f'{args.task} is a task')


def _prepare(argv: list[str]) -> None:
  parser = config_file.Parser('data prepare', 'prepare: download a TFDS data set and prepare it')
  parser.add_argument(
    'name',
    metavar='NAME',
    help='a TFDS name, such as cifar10 or imagenet2012; imagenet21k; or a task, vtab/clevr_count',
  )
  parser.add_argument('--data-dir', help='default: $TFDS_DATA_DIR, or that of TFDS')
  parser.add_argument(
    '--classes',
    type=int,
    metavar='N',
    help='of imagenet21k: how many the archive has, where it is not the fall-2011 release',
  )
  args = parser.parse_flags(argv)
  terminal = console.setup_console()
  name = find_task(args.name).data_set if is_task(args.name) else args.name
  check_name(name)
  check_place(args.data_dir or '')
  if args.classes is not None and name != 'imagenet21k':
    raise UserError(f'--classes is for imagenet21k: the classes of {name} are known')
  reason = prepare(name, args.data_dir or '', classes=args.classes)
  if reason:
    raise UserError(f'data set {name} was not prepared ({reason}): mend that, and try again')
  terminal.say(f'{name} is prepared')


def _check(argv: list[str]) -> None:
  parser = config_file.Parser('data check', 'check: read and decode every record')
  parser.add_config(required=True)
  args, overrides = parser.parse(argv)
  console.setup_console()
  loaded = config_file.load_config(args.config, overrides)
  if loaded.get('data') and loaded.data.get('eval_recipe') == 'checkpoint':
    loaded.data.eval_recipe = 'resmall-crop'  # there is none, and records are read without it
  config = experiment.data_of(loaded)
  broken = 0
  splits = (config.train_split, config.eval_split)
  sources = [open_source(config.name, split, config.data_dir) for split in splits]
  # One part under two names, as the whole of a folder, is read once.
  for source in {source.name: source for source in sources}.values():
    faults, labels = _faults(source)
    # Where a file is cut off, all records behind that have the same fault.
    for fault, count in collections.Counter(faults).items():
      print(fault if count == 1 else f'{fault} ({count:,} records)')
    broken += len(faults)
    counts = [labels[label] for label in range(len(source.classes))]
    print(
      f'{source.name}: {len(source):,} records, {len(faults)} of them cannot be used; '
      f'{len(source.classes)} classes of {min(counts):,} to {max(counts):,} images'
    )
  if broken:
    raise UserError(
      f'{broken} records cannot be used: training stops at an image that does not decode (unless '
      '--config.data.undecodable=skip), evaluation leaves it out; a wrong label stops both'
    )


def _faults(source: Source) -> tuple[list[str], collections.Counter[int | None]]:
  """(what is wrong with which record, how many there are of each label)."""

  def look(index: int) -> tuple[int | None, str | None]:
    try:
      record = source[index]
    except UserError as error:  # it is damaged, or has no label
      return None, str(error)
    try:
      decode.decode(record['image'])
    except decode.UndecodableError as error:
      return record['label'], f'{record["name"]}: {error}'
    return record['label'], None

  faults: list[str] = []
  labels: collections.Counter[int | None] = collections.Counter()
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    # A part at a time: `map` alone would hold all results.
    parts = (range(len(source))[first:][:_PART] for first in range(0, len(source), _PART))
    for part in reading(parts, _PART, len(source)):
      for label, fault in pool.map(look, part):
        labels[label] += 1
        if fault:
          faults.append(fault)
  return faults, labels


def _show(argv: list[str]) -> None:
  parser = config_file.Parser('data show', 'show: images as training sees them, and RandAugment')
  parser.add_config(required=True)
  parser.add_argument('--output', default='augment.png', metavar='FILE', help='PNG (augment.png)')
  args, overrides = parser.parse(argv)
  terminal = console.setup_console()
  config_file.check_targets({'output': args.output})
  config = config_file.load_config(args.config, overrides)
  data = experiment.data_of(config)
  size = config.model.get('image_size') or 224
  source = open_source(data.name, data.train_split, data.data_dir)
  images = _decoded(source, 4)
  operations = list(_operations(images[0][1], size))
  half = len(operations) // 2
  sheet = [
    Band(f'{source.name} as training sees it', [list(_seen(images, data, size, config.seed))]),
    Band(
      'The operations of RandAugment at several magnitudes; below 0, in the other direction',
      [operations[:half], operations[half:]],
    ),
  ]
  user_path(args.output).write_bytes(contact_sheet(sheet))
  terminal.say(f'{args.output}: {data.name} as training sees it, and all operations of RandAugment')


def _decoded(source: Source, count: int) -> list[tuple[str, np.ndarray]]:
  """(class name, image) of some that decode, from all over the split."""
  images = []
  for index in np.random.default_rng(0).permutation(len(source)):
    record = source[index]
    with contextlib.suppress(decode.UndecodableError):
      images.append((source.classes[record['label']], decode.decode(record['image'])))
    if len(images) == count:
      break
  if not images:
    raise UserError(f'no image of {source.name} decodes')
  return images


def _seen(images, data: DataConfig, size: int, seed: int):
  """Each image whole, then as training draws it."""
  for number, (name, image) in enumerate(images):
    draws = [
      pipeline.augmented(image, data, size, np.random.default_rng((seed, number, draw)))
      for draw in range(_DRAWS)
    ]
    yield name, [('whole', image), *(('', draw) for draw in draws)]


def _operations(image: np.ndarray, size: int):
  """Every operation on one image, at four magnitudes and, where it has two, both directions."""
  image = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
  for name, operation in OPERATIONS.items():
    magnitudes = [*_MAGNITUDES, *([-_MAGNITUDES[-1]] if operation.signed else [])]
    yield name, [(f'{m}', operation(image, m, np.random.default_rng(0))) for m in magnitudes]
