"""One global order of examples, split into the batches of this process.

The seed and the position p in the order decide which example is used and how it is augmented.
Step n takes positions n·B to (n+1)·B; process i of P takes the i-th of P contiguous parts. A step
therefore has the same global batch on any number of hosts and after any restart, and a run's
position in the data is its step.
"""

import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import SupportsIndex

import grain
import numpy as np

from mixer_jax.data import augment, limits, permute, recipes
from mixer_jax.data.batch import FILLER, Batch, Example
from mixer_jax.data.decode import MAX_MEGAPIXELS, UndecodableError, decode, has_16_bits
from mixer_jax.data.folders import RULES
from mixer_jax.data.randaugment import randaugment
from mixer_jax.data.source import Record, Source
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)

UNDECODABLE = ('fatal', 'skip')
"""'fatal': raise `UserError`. 'skip': use the next record of the split that decodes, at the same
position and with the same random changes, so that (seed, position) still decide everything."""


CHANGED = ('refuse', 'accept')
"""'refuse': raise `UserError`. 'accept': record the change, continue with the data as they are."""


@dataclasses.dataclass(frozen=True)
class DataConfig:
  """Attributes:
  name: name of the data set, for `open_source`.
  data_dir: folder of prepared TFDS data sets; '' is TFDS's default.
  train_split, eval_split: TFDS slicing.
  test_split: likewise; split of the final report. '': the final report uses `eval_split`.
  folder_rules: rules by which 'folder:DIR' is read, see `folders.RULES`.
  crop: how an inception crop is drawn and resized, one of `augment.CROPS`.
  min_crop_area, max_crop_area: share of the image's area in it.
  min_crop_aspect, max_crop_aspect: width over height of the crop.
  flip: mirror half of the training images.
  randaugment_layers, randaugment_magnitude: see `randaugment`; 0 layers switch it off.
  eval_recipe, eval_crop_fraction: see `recipes.eval_image`; the recipe 'checkpoint' is replaced by
    that of a checkpoint before images are read.
  permutation: order of the pixels of each image: 'none', or 'patches' or 'pixels' of
    `permute.order_of`; the same for all images in training and evaluation.
  permutation_patch: side of the patches of 'patches', pixels.
  permutation_seed: seed of the permutation.
  undecodable: what to do in training if an image does not decode: one of `UNDECODABLE`.
  changed: what to do at a resume if files of the data were added, removed or renamed since the run
    began: one of `CHANGED`.
  max_megapixels: larger images count as images that do not decode.
  threads: threads that read and decode; 0: the thread of the loop does it between steps.
  prefetch: examples that the threads keep ready.
  """

  name: str
  data_dir: str = dataclasses.field(metadata={'affects_result': False})
  train_split: str
  eval_split: str
  test_split: str
  folder_rules: int
  crop: str
  min_crop_area: float
  max_crop_area: float
  min_crop_aspect: float
  max_crop_aspect: float
  flip: bool
  randaugment_layers: int
  randaugment_magnitude: float
  eval_recipe: str
  eval_crop_fraction: float
  permutation: str
  permutation_patch: int
  permutation_seed: int
  undecodable: str = dataclasses.field(metadata={'affects_result': False})
  changed: str = dataclasses.field(metadata={'affects_result': False})
  max_megapixels: int = dataclasses.field(metadata={'affects_result': False})
  threads: int = dataclasses.field(metadata={'affects_result': False})
  prefetch: int = dataclasses.field(metadata={'affects_result': False})

  def __post_init__(self):
    recipe = 'resmall-crop' if self.takes_recipe_of_checkpoint else self.eval_recipe
    recipes.check(recipe, self.eval_crop_fraction)
    if not 0 < self.min_crop_area <= self.max_crop_area <= 1:
      raise UserError(
        'data.min_crop_area and data.max_crop_area must be in (0, 1] and in this order; they are '
        f'{self.min_crop_area!r} and {self.max_crop_area!r}'
      )
    if self.crop not in augment.CROPS:
      raise UserError(f'data.crop must be one of {", ".join(augment.CROPS)}, not {self.crop!r}')
    if self.crop == 'tensorflow' and self.min_crop_area == self.max_crop_area < 1:
      raise UserError(
        f'data.crop=tensorflow finds no crop of exactly {self.min_crop_area!r} of the area: set '
        'data.min_crop_area below data.max_crop_area, or data.crop=uniform-area'
      )
    if not 0.01 <= self.min_crop_aspect <= self.max_crop_aspect <= 100:
      raise UserError(
        'data.min_crop_aspect and data.max_crop_aspect must be in [0.01, 100], in this order; are '
        f'{self.min_crop_aspect!r} and {self.max_crop_aspect!r}'
      )
    if not 0 <= self.randaugment_magnitude <= 30:
      raise UserError(
        f'data.randaugment_magnitude must be in [0, 30], is {self.randaugment_magnitude!r}'
      )
    if self.permutation not in permute.INPUTS:
      raise UserError(
        f'data.permutation must be one of {", ".join(permute.INPUTS)}, not {self.permutation!r}'
      )
    if type(self.permutation_patch) is not int or self.permutation_patch < 1:
      raise UserError(
        f'data.permutation_patch must be a positive whole number, not {self.permutation_patch!r}'
      )
    if type(self.permutation_seed) is not int or self.permutation_seed < 0:
      raise UserError(
        f'data.permutation_seed must be a whole number, 0 or more, not {self.permutation_seed!r}'
      )
    if self.undecodable not in UNDECODABLE:
      raise UserError(
        f'data.undecodable must be one of {", ".join(UNDECODABLE)}, not {self.undecodable!r}'
      )
    if self.changed not in CHANGED:
      raise UserError(f'data.changed must be one of {", ".join(CHANGED)}, not {self.changed!r}')
    for name, least, most in (
      ('threads', 0, 1024),
      ('prefetch', 0, 2**20),
      ('randaugment_layers', 0, 16),
      ('folder_rules', 1, RULES),
      ('max_megapixels', 1, MAX_MEGAPIXELS),
    ):
      value = getattr(self, name)
      if type(value) is not int or not least <= value <= most:
        raise UserError(f'data.{name} must be in {least}..{most}, is {value!r}')

  @property
  def takes_recipe_of_checkpoint(self) -> bool:
    """True until the recipe of a checkpoint is filled in."""
    return self.eval_recipe == 'checkpoint'

  def order(self, image_size: int) -> np.ndarray | None:
    """Return the order of the pixels of each image; see `permute.order_of`."""
    return permute.order_of(
      self.permutation, image_size, self.permutation_patch, self.permutation_seed
    )


def evaluation_only(
  name: str, *, recipe: str, crop_fraction: float, threads: int, prefetch: int
) -> DataConfig:
  """Return a config for evaluation without training; see `DataConfig`."""
  return DataConfig(
    name=name,
    data_dir='',
    train_split='',
    eval_split='',
    test_split='',
    folder_rules=RULES,
    crop='tensorflow',
    min_crop_area=1.0,
    max_crop_area=1.0,
    min_crop_aspect=1.0,
    max_crop_aspect=1.0,
    flip=False,
    randaugment_layers=0,
    randaugment_magnitude=0.0,
    eval_recipe=recipe,
    eval_crop_fraction=crop_fraction,
    permutation='none',
    permutation_patch=1,
    permutation_seed=0,
    undecodable='fatal',
    changed='refuse',
    max_megapixels=134,
    threads=threads,
    prefetch=prefetch,
  )


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
  `skipped` (see `UNDECODABLE`). A missing label raises `UserError`.
  """
  process = process or Process()
  skipped = set() if skipped is None else skipped

  def prepare(index: int, rng: np.random.Generator) -> Example:
    change = lambda image: augmented(image, config, image_size, rng)
    record, image = _decoded(source, index, config, skipped, change)
    return {'image': image, 'label': np.int32(record['label'])}

  order = grain.MapDataset.range(len(source)).seed(seed).shuffle().repeat(None).random_map(prepare)
  return _batches(order, config, batch_size, process, first_step)


def _decoded(
  source: Source,
  first: int,
  config: DataConfig,
  skipped: set[str],
  change: Callable[[np.ndarray], np.ndarray],
) -> tuple[Record, np.ndarray]:
  """Return the record at `first` and its changed image, or the next record that decodes.

  `skipped` collects the names of images of this process that did not decode; each is logged once.
  An error of reading is raised, not skipped: it would change what the run trains on.
  """
  size = len(source)
  for index in range(first, first + size):
    record = source[index % size]
    try:
      with limits.admitted(record['image'], config.max_megapixels):
        image = decode(record['image'])
        _warn_if_dark(record, image)
        return record, change(image)
    except UndecodableError as error:
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


def augmented(
  image: np.ndarray, config: DataConfig, size: int, rng: np.random.Generator
) -> np.ndarray:
  """Crop, flip, augment and permute a decoded image for training; returns uint8."""
  image = augment.inception_crop(
    image,
    size,
    rng,
    areas=(config.min_crop_area, config.max_crop_area),
    aspects=(config.min_crop_aspect, config.max_crop_aspect),
    crop=config.crop,
  )
  if config.flip:
    image = augment.flip(image, rng)
  image = randaugment(
    image, rng, layers=config.randaugment_layers, magnitude=config.randaugment_magnitude
  )
  return permute.permuted(image, config.order(size))


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
