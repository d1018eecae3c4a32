"""One global order of examples, split into the batches of this process.

The seed and the position p in the order decide which example is used and how it is augmented.
Step n takes positions n·B to (n+1)·B; process i of P takes the i-th of P contiguous parts. A step
therefore has the same global batch on any number of hosts and after any restart, and a run's
position in the data is its step.
"""

import dataclasses
import functools
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsIndex

import grain
import numpy as np

from mixer_jax.data import limits, permute, recipes
from mixer_jax.data.batch import FILLER, Batch, Example
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.decode import UndecodableError, has_16_bits
from mixer_jax.data.source import Record, Source
from mixer_jax.data.training_image import training_image
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Process:
  """Index of a process, and the number of processes."""

  index: int = 0
  count: int = 1


class _Slice(grain.MapDataset):
  """Contiguous part of every global batch that belongs to this process."""

  def __init__(self, parent: grain.MapDataset, batch_size: int, process: Process):
    super().__init__(parent)
    self._batch_size, self._process = batch_size, process

  def __len__(self) -> int:
    # Grain divides lengths as floats, which would overflow the length of an endless order.
    return min(len(self._parent) // self._process.count, 2**62)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    local = self._batch_size // self._process.count
    batch, place = divmod(index.__index__(), local)
    return self._parent[batch * self._batch_size + self._process.index * local + place]


def train_batches(
  source: Source,
  config: DataConfig,
  *,
  image_size: int,
  batch_size: int,
  seed: int,
  first_step: int = 0,
  process: Process | None = None,
  skipped: set[str] | None = None,
) -> Iterator[Batch]:
  """Yield endless training batches of this process, from `first_step` on.

  Every epoch is a new permutation of all examples; none is dropped at its end. `batch_size` is the
  global one. An image that does not decode raises `UserError`, or is logged, replaced and added to
  `skipped` (see `data_config.UNDECODABLE`). A missing label raises `UserError`.
  """
  process = process or Process()
  skipped = set() if skipped is None else skipped

  def prepare(index: int, rng: np.random.Generator) -> Example:
    change = lambda data, see: training_image(data, config, image_size, rng, see)
    record, image = _decoded(source, index, config, skipped, rng, change)
    return {'image': image, 'label': np.int32(record['label'])}

  order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None).random_map(prepare)
  return _batches(order, config, batch_size, process, first_step)


def _decoded(
  source: Source,
  first: int,
  config: DataConfig,
  skipped: set[str],
  rng: np.random.Generator,
  change: Callable[[bytes, Callable[[np.ndarray], None]], np.ndarray],
) -> tuple[Record, np.ndarray]:
  """Return the record at `first` and its changed image, or the next record that decodes.

  `skipped` collects the names of images of this process that did not decode; each is logged once.
  An error of reading is raised, not skipped: it would change what the run trains on.
  """
  size = len(source)
  drawn = rng.bit_generator.state
  for index in range(first, first + size):
    record = source[index % size]
    see = functools.partial(_warn_if_dark, record)
    try:
      return record, change(record['image'], see)
    except UndecodableError as error:
      rng.bit_generator.state = drawn
      name = record['name']
      if config.undecodable == 'fatal':
        raise UserError(
          f'training image {name} does not decode: {error}; replace or remove it, or skip such '
          'images with --config.data.undecodable=skip'
        ) from error
      if name not in skipped:
        skipped.add(name)
        log.warning(
          'training image %s does not decode (%s): replaced by the next one; %d so far',
          name,
          error,
          len(skipped),
        )
  raise UserError(f'none of the images of {source.name} decode')


_dark_images = itertools.count(1)


def _warn_if_dark(record: Record, image: np.ndarray) -> None:
  """Log images of 16 bits that use only the lower 14 or fewer, as those of many cameras."""
  if has_16_bits(record['image']) and image.max() < 64:
    number = next(_dark_images)
    if number in (1, 10, 100, 1000, 10_000):
      log.warning(
        'image %s has 16 bits per level, of which the highest are not used: it is almost black '
        'here; multiply its levels so that white is 65535 (%d such so far)',
        record['name'],
        number,
      )


def eval_batches(
  source: Source,
  config: DataConfig,
  *,
  image_size: int,
  batch_size: int,
  process: Process | None = None,
) -> Iterator[Batch]:
  """Yield every example of the split once, in order; the last batch is padded and masked.

  All processes get the same number of batches. An image that does not decode is logged and masked;
  its index is not `FILLER`, so it can be counted. One that cannot be read raises, unless the source
  may lack it.
  """
  process = process or Process()
  size = len(source)

  level = recipes.RECIPES[config.eval_recipe].level

  def prepare(index: int) -> Example:
    example = {
      'image': np.zeros((image_size, image_size, 3), level),
      'label': np.int32(0),
      'mask': np.bool_(False),
      'index': np.int32(index if index < size else FILLER),
    }
    if source.accepted:
      example['accepted'] = np.zeros(len(source.classes), bool)
    if source.may_lack:
      example['unread'] = np.bool_(False)
    if index >= size:
      return example
    try:
      record = source[index]
    except UserError as error:
      if not source.may_lack:
        raise
      log.warning('left out: %s', error)
      example['unread'] = np.bool_(True)
      return example
    example['label'] = np.int32(record['label'])
    if source.accepted:
      example['accepted'][record['accepted']] = True
    try:
      with limits.admitted(record['image'], config.max_megapixels):
        image = recipes.eval_image(
          record['image'], image_size, config.eval_recipe, config.eval_crop_fraction
        )
      _warn_if_dark(record, image)
      example['image'] = permute.permuted(image, config.order(image_size))
    except UndecodableError as error:
      log.warning('image %s does not decode (%s): left out', record['name'], error)
    else:
      example['mask'] = np.bool_(True)
    return example

  batches = -(-size // batch_size)
  order = grain.MapDataset.range(batches * batch_size).map(prepare)
  return _batches(order, config, batch_size, process)


_PORTION = 16
"""Maximum number of examples that a thread passes on at once: one at a time would take a twentieth
of the time."""


def _batches(
  order: grain.MapDataset,
  config: DataConfig,
  batch_size: int,
  process: Process,
  first_step: int = 0,
) -> Iterator[Batch]:
  """Iterate over this process's parts of the global batches of `order`."""
  local = batch_size // process.count
  portion = math.gcd(local, _PORTION)
  ready = max(config.prefetch // portion, config.threads) if config.threads else 0
  portions = (
    _Slice(order, batch_size, process)
    .batch(portion, batch_fn=list)
    .to_iter_dataset(grain.ReadOptions(num_threads=config.threads, prefetch_buffer_size=ready))
  )
  iterator = iter(portions.batch(local // portion, batch_fn=_stacked))
  iterator.set_state({'next_index': first_step * (local // portion)})
  return iterator


def _stacked(portions: Sequence[Sequence[Example]]) -> Batch:
  rows = [example for portion in portions for example in portion]
  return {name: np.stack([row[name] for row in rows]) for name in rows[0]}
