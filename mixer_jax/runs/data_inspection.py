"""Inspection of the data of a run: all its records checked, or a sheet of what training sees."""

import contextlib
from collections.abc import Iterator, Sequence

import cv2
import numpy as np

from mixer_jax.data import decode, limits
from mixer_jax.data.check import RecordCheck, check_records
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.randaugment import OPERATIONS
from mixer_jax.data.source import Source
from mixer_jax.data.training_image import training_image
from mixer_jax.errors import UserError
from mixer_jax.pictures.contact_sheets import Band, Row, contact_sheet
from mixer_jax.runlog.progress import reading
from mixer_jax.runs.data_splits import open_evaluated, open_split, open_train, with_held_out
from mixer_jax.runs.evaluation_setup import data_of
from mixer_jax.runs.run_config import RunConfig

_MAGNITUDES = (5, 10, 15, 20)
_IMAGES = 4
_DRAWS = 9  # per image

NamedImage = tuple[str, bytes, np.ndarray]
"""Class name, encoded image, and its (H, W, 3) uint8 levels."""


def check_data(data: DataConfig) -> Iterator[RecordCheck]:
  """Read and decode every record of the training split, then of the evaluation split.

  Two splits that are the same records are read once, as is a folder that only has one.

  Raises:
    UserError: there is no such data set or split.
  """
  if not data.name:
    raise UserError('no data set: set --config.data.name, such as digits or imagenet2012')
  if with_held_out(data) == data:
    sources = [open_train(data), open_evaluated(data)]
  else:
    sources = [open_split(data, data.train_split)]
  for source in {source.name: source for source in sources}.values():
    yield check_records(source, data.max_megapixels, reading)


def training_sheet(config: RunConfig) -> bytes:
  """Draw images as training sees them, and all operations of RandAugment; returns a PNG.

  Raises:
    UserError: there is no such data set, or none of its images decodes.
  """
  data = data_of(config)
  image_size = config.model.get('image_size') or 224
  source = open_train(data)
  images = _sample(source, data.max_megapixels)
  operations = list(_operations(images[0][2], image_size))
  half = len(operations) // 2
  augmented = list(_augmented(images, data, image_size, config.seed))
  heading = 'The operations of RandAugment at several magnitudes; negative: the other direction'
  return contact_sheet(
    [
      Band(f'{source.name} as training sees it', [augmented]),
      Band(heading, [operations[:half], operations[half:]]),
    ]
  )


def _sample(source: Source, max_megapixels: int) -> list[NamedImage]:
  """Return a few images that decode, from the whole split."""
  images: list[NamedImage] = []
  for index in np.random.default_rng(0).permutation(len(source)):
    record = source[index]
    with (
      contextlib.suppress(decode.UndecodableError),
      limits.admitted(record['image'], max_megapixels),
    ):
      levels = decode.decode(record['image'])
      images.append((source.classes[record['label']], record['image'], levels))
    if len(images) == _IMAGES:
      break
  if not images:
    raise UserError(f'no image of {source.name} decodes')
  return images


def _augmented(
  images: Sequence[NamedImage], data: DataConfig, image_size: int, seed: int
) -> Iterator[Row]:
  """Yield a row per image: all of it, then as training draws it."""
  for number, (name, encoded, levels) in enumerate(images):
    draws = [
      training_image(encoded, data, image_size, np.random.default_rng((seed, number, draw)))
      for draw in range(_DRAWS)
    ]
    yield name, [('original', levels), *(('', draw) for draw in draws)]


def _operations(image: np.ndarray, image_size: int) -> Iterator[Row]:
  """Yield a row per operation: one image at four magnitudes, and in the other direction."""
  image = cv2.resize(image, (image_size, image_size), interpolation=cv2.INTER_LINEAR)
  for name, operation in OPERATIONS.items():
    magnitudes = [*_MAGNITUDES, *([-_MAGNITUDES[-1]] if operation.signed else [])]
    yield name, [(f'{m}', operation(image, m, np.random.default_rng(0))) for m in magnitudes]
