"""Encoded image -> training image: cropped at random, flipped, augmented, permuted."""

from collections.abc import Callable

import numpy as np

from mixer_jax.data import augment, limits, permute
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.decode import decode, has_16_bits, is_jpeg
from mixer_jax.data.randaugment import randaugment


def training_image(
  data: bytes,
  config: DataConfig,
  size: int,
  rng: np.random.Generator,
  see_16_bits: Callable[[np.ndarray], None] | None = None,
) -> np.ndarray:
  """Decode an image and change it at random, as training sees it.

  Args:
    data: the encoded image.
    size: side of the result, pixels.
    rng: draws the crop, then the flip, then the operations of RandAugment. After an error it has
      drawn an unknown number of values.
    see_16_bits: called with the complete decoded image, if that had 16 bits per level.

  Returns:
    (size, size, 3) uint8.

  Raises:
    UndecodableError: as `decode` and `limits.admitted`.
    StorageError: as `limits.admitted`.
  """
  side = config.resized_side(size)
  areas = config.min_crop_area, config.max_crop_area
  aspects = config.min_crop_aspect, config.max_crop_aspect
  with limits.admitted(data, config.max_megapixels):
    if config.decode_scale == 'auto' and is_jpeg(data):
      width, height = limits.size_of(data)
      box = augment.BOXES[config.crop](height, width, rng, areas=areas, aspects=aspects)
      image = decode(data, augment.reduction(box, side))
      box = augment.scaled(box, (height, width), image.shape[:2])
      image = augment.resized(image, box, side, config.crop)
    else:
      image = decode(data)
      if see_16_bits and has_16_bits(data):
        see_16_bits(image)
      image = augment.inception_crop(
        image, side, rng, areas=areas, aspects=aspects, crop=config.crop
      )
  if config.crop == 'square':
    image = augment.square_crop(image, size, rng)
  if config.flip:
    image = augment.flip(image, rng)
  image = randaugment(
    image, rng, layers=config.randaugment_layers, magnitude=config.randaugment_magnitude
  )
  return permute.permuted(image, config.order(size))
