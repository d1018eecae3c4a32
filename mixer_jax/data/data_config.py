"""Config group `data`: choice, reading and augmentation of the images of a run."""

import dataclasses

import numpy as np

from mixer_jax.data import augment, permute, recipes
from mixer_jax.data.decode import MAX_MEGAPIXELS
from mixer_jax.data.folders import RULES
from mixer_jax.errors import UserError

UNDECODABLE = ('fatal', 'skip')
"""'fatal': raise `UserError`. 'skip': use the next record of the split that decodes, at the same
position and with the same random changes, so that (seed, position) still decide everything."""

LABEL_THREADS = 16
"""Threads that read labels by default; they wait for storage most of the time."""

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
  crop: how training images are cropped and resized, one of `augment.CROPS`.
  crop_resize: of 'square', the side to which the complete image is resized before a random part of
    the model's size is cut out, pixels; 0 with the others.
  decode_scale: one of `augment.DECODE_SCALES`; 'none': images are decoded at their full size.
  min_crop_area, max_crop_area: share of the image's area in an inception crop.
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
  workers: processes that read and decode; 0: threads of this process do it. 'auto': see
    `parallelism.chosen`.
  threads: threads of each; without workers 0 is the thread of the loop, between steps. 'auto'
    likewise.
  prefetch: examples that they keep ready, at least.
  """

  name: str
  data_dir: str = dataclasses.field(metadata={'affects_result': False})
  train_split: str
  eval_split: str
  test_split: str
  folder_rules: int
  crop: str
  crop_resize: int
  decode_scale: str
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
  workers: int | str = dataclasses.field(metadata={'affects_result': False})
  threads: int | str = dataclasses.field(metadata={'affects_result': False})
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
    if (self.crop == 'square') != (self.crop_resize != 0):
      raise UserError(
        f'data.crop={self.crop} with data.crop_resize={self.crop_resize!r}: crop_resize is the '
        'side of the square of data.crop=square, pixels, and 0 with the other crops'
      )
    if self.decode_scale not in augment.DECODE_SCALES:
      raise UserError(
        f'data.decode_scale must be one of {", ".join(augment.DECODE_SCALES)}, '
        f'not {self.decode_scale!r}'
      )
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
      ('prefetch', 0, 2**20),
      ('randaugment_layers', 0, 16),
      ('crop_resize', 0, 2**14),
      ('folder_rules', 1, RULES),
      ('max_megapixels', 1, MAX_MEGAPIXELS),
    ):
      value = getattr(self, name)
      if type(value) is not int or not least <= value <= most:
        raise UserError(f'data.{name} must be in {least}..{most}, is {value!r}')
    for name, most in (('workers', 256), ('threads', 1024)):
      object.__setattr__(self, name, _auto_or_number(name, getattr(self, name), most))

  @property
  def label_threads(self) -> int:
    """Number of threads that read labels alone, which takes no time of a core."""
    return LABEL_THREADS if self.threads == 'auto' else max(int(self.threads), 1)

  @property
  def takes_recipe_of_checkpoint(self) -> bool:
    """True until the recipe of a checkpoint is filled in."""
    return self.eval_recipe == 'checkpoint'

  def resized_side(self, image_size: int) -> int:
    """Return the side to which a training image, or its crop, is resized, pixels.

    Raises:
      UserError: no part of the model's size can be cut out of it.
    """
    if self.crop != 'square':
      return image_size
    if self.crop_resize < image_size:
      raise UserError(
        f'data.crop_resize={self.crop_resize} is smaller than the images of the model, '
        f'{image_size} px: set it to {image_size} or more'
      )
    return self.crop_resize

  def order(self, image_size: int) -> np.ndarray | None:
    """Return the order of the pixels of each image; see `permute.order_of`."""
    return permute.order_of(
      self.permutation, image_size, self.permutation_patch, self.permutation_seed
    )


def _auto_or_number(name: str, value: int | str, most: int) -> int | str:
  """Return the value of a field that may be a text on the command line."""
  if isinstance(value, str) and value.isdecimal():
    value = int(value)
  if value != 'auto' and (type(value) is not int or not 0 <= value <= most):
    raise UserError(f"data.{name} must be in 0..{most} or 'auto', is {value!r}")
  return value


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
    crop_resize=0,
    decode_scale='none',
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
    workers=0,
    threads=threads,
    prefetch=prefetch,
  )
