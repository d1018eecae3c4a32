"""Examples by their position, written to the rows of a batch."""

import dataclasses
import functools
import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from mixer_jax.data import limits, permute, recipes
from mixer_jax.data.batch import FILLER, Batch
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.decode import UndecodableError, has_16_bits
from mixer_jax.data.order import Order
from mixer_jax.data.slots import Column
from mixer_jax.data.source import Record, Source
from mixer_jax.data.training_image import training_image
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)


class Remark(NamedTuple):
  """Remark on an image. The process that takes the batches logs those of all workers."""

  name: str
  """Name of the record."""
  undecodable: str = ''
  """Reason why another image was taken; '': the image is almost black."""


class Examples(Protocol):
  """Makes examples; can be pickled, and used from several threads."""

  def columns(self) -> Mapping[str, Column]:
    """Return the arrays of a batch."""
    ...

  def fill(self, positions: Sequence[int], rows: Batch) -> list[Remark]:
    """Write the examples at these positions to the rows, all values of each."""
    ...


@dataclasses.dataclass(frozen=True)
class TrainingExamples:
  """Augmented examples in an endless order, see `pipeline.train_batches`."""

  source: Source
  config: DataConfig
  image_size: int
  seed: int

  @functools.cached_property
  def _order(self) -> Order:
    return Order(len(self.source), self.seed)

  def columns(self) -> Mapping[str, Column]:
    """Return the arrays of a batch."""
    shape = (self.image_size, self.image_size, 3)
    return {'image': Column(shape, np.dtype(np.uint8)), 'label': Column((), np.dtype(np.int32))}

  def fill(self, positions: Sequence[int], rows: Batch) -> list[Remark]:
    """Write the examples at these positions to the rows.

    Raises:
      UserError: an image does not decode (see `data_config.UNDECODABLE`), or has no label.
      StorageError: one cannot be read now.
    """
    remarks: list[Remark] = []
    images, labels = rows['image'], rows['label']
    indices = self._order.records(positions).tolist()
    for row, (position, index) in enumerate(zip(positions, indices, strict=True)):
      record, images[row] = self._decodable(index, position, remarks)
      labels[row] = record['label']
    return remarks

  def _decodable(
    self, first: int, position: int, remarks: list[Remark]
  ) -> tuple[Record, np.ndarray]:
    """Return the record at `first` and its changed image, or the next record that decodes.

    An error of reading is raised, not skipped: it would change what the run trains on.
    """
    size = len(self.source)
    for index in range(first, first + size):
      record = self.source[index % size]
      try:
        rng = self._order.generator(position)
        see = functools.partial(_see_16_bits, record, remarks)
        return record, training_image(record['image'], self.config, self.image_size, rng, see)
      except UndecodableError as error:
        if self.config.undecodable == 'fatal':
          raise UserError(
            f'training image {record["name"]} does not decode: {error}; replace or remove it, or '
            'skip such images with --config.data.undecodable=skip'
          ) from error
        remarks.append(Remark(str(record['name']), str(error)))
    raise UserError(f'none of the images of {self.source.name} decode')


@dataclasses.dataclass(frozen=True)
class EvaluationExamples:
  """Examples of a split in its order, see `pipeline.eval_batches`; then padding."""

  source: Source
  config: DataConfig
  image_size: int

  def columns(self) -> Mapping[str, Column]:
    """Return the arrays of a batch."""
    level = np.dtype(recipes.RECIPES[self.config.eval_recipe].level)
    number, flag = np.dtype(np.int32), np.dtype(bool)
    columns = {
      'image': Column((self.image_size, self.image_size, 3), level),
      'label': Column((), number),
      'mask': Column((), flag),
      'index': Column((), number),
    }
    if self.source.accepted:
      columns['accepted'] = Column((len(self.source.classes),), flag)
    if self.source.may_lack:
      columns['unread'] = Column((), flag)
    return columns

  def fill(self, positions: Sequence[int], rows: Batch) -> list[Remark]:
    """Write the examples at these positions to the rows; those after the last are padding.

    Raises:
      UserError: an image has no label, or cannot be read and the source may not lack it.
      StorageError: one cannot be read now.
    """
    remarks: list[Remark] = []
    for values in rows.values():
      values[...] = 0
    for row, index in enumerate(positions):
      example = {name: values[row : row + 1] for name, values in rows.items()}
      example['index'][0] = index if index < len(self.source) else FILLER
      if index < len(self.source):
        remarks += self._fill(index, example)
    return remarks

  def _fill(self, index: int, row: Batch) -> list[Remark]:
    """Write the example of an index to a batch of one row of zeros."""
    try:
      record = self.source[index]
    except UserError as error:
      if not self.source.may_lack:
        raise
      log.warning('left out: %s', error)
      row['unread'][0] = True
      return []
    row['label'][0] = record['label']
    if self.source.accepted:
      row['accepted'][0, record['accepted']] = True
    config = self.config
    try:
      with limits.admitted(record['image'], config.max_megapixels):
        image = recipes.eval_image(
          record['image'], self.image_size, config.eval_recipe, config.eval_crop_fraction
        )
    except UndecodableError as error:
      log.warning('image %s does not decode (%s): left out', record['name'], error)
      return []
    row['image'][0] = permute.permuted(image, config.order(self.image_size))
    row['mask'][0] = True
    remarks: list[Remark] = []
    if has_16_bits(record['image']):
      _see_16_bits(record, remarks, image)
    return remarks


def _see_16_bits(record: Record, remarks: list[Remark], image: np.ndarray) -> None:
  """Add a remark on an image of 16 bits that uses only the lower 14 or fewer."""
  if image.max() < 64:
    remarks.append(Remark(str(record['name'])))


_dark_images = itertools.count(1)


def report(remarks: Sequence[Remark], skipped: set[str]) -> None:
  """Log remarks in their order.

  Args:
    skipped: names of the images that did not decode; new ones are added. Each is logged once.
  """
  for name, reason in remarks:
    if reason and name not in skipped:
      skipped.add(name)
      log.warning(
        'training image %s does not decode (%s): replaced by the next one; %d so far',
        name,
        reason,
        len(skipped),
      )
    elif not reason and (number := next(_dark_images)) in (1, 10, 100, 1000, 10_000):
      log.warning(
        'image %s has 16 bits per level, of which the highest are not used: it is almost black '
        'here; multiply its levels so that white is 65535 (%d such so far)',
        name,
        number,
      )
