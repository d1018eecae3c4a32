"""Images as every model takes them: of the model's size, mapped to its input range."""

import jax
import jax.core
import jax.numpy as jnp
import numpy as np

from mixer_jax.errors import UserError

INPUT_RANGES = {'[-1, 1]': (127.5, 1.0), '[0, 1]': (255.0, 0.0)}
"""Range -> (divisor, offset subtracted after the division) for pixels in 0..255."""


def from_levels(config, levels):
  """Map pixels in 0..255, a float array, to the model's `input_range`."""
  divisor, offset = INPUT_RANGES[config.input_range]
  return levels / divisor - offset


def as_input(config, images):
  """Return images of an evaluation batch as `apply` and `features` take them.

  Args:
    images: pixels in 0..255. uint8 is passed through, because the model maps it itself; other
      types, which a resize leaves, are mapped to the model's `input_range` here.
  """
  return images if images.dtype == jnp.uint8 else from_levels(config, images)


_LARGEST = 10.0
"""Floats above it are levels: no normalisation of pixels in use reaches it."""


def check(config, images) -> None:
  """Check images as `apply` takes them: (B, image_size, image_size, 3), floats or uint8.

  Raises:
    UserError: they are no array, or one of another shape or dtype; or floats in 0..255, which is
      seen in concrete arrays only.
  """
  size = config.image_size
  if not isinstance(images, np.ndarray | jax.Array):
    raise UserError(
      f'images are an array of shape (batch, {size}, {size}, 3), not {type(images).__name__}: '
      'convert images of other libraries by np.stack([np.asarray(image) for image in …])'
    )
  shape = images.shape
  if len(shape) != 4 or shape[1:] != (size, size, 3):
    raise UserError(f'images of shape {shape}: this model takes (batch, {size}, {size}, 3), RGB')
  if not shape[0]:
    raise UserError(f'images of shape {shape}: the batch is empty')
  if images.dtype == jnp.uint8:
    return
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(
      f'images of {images.dtype}: give uint8 in 0..255, or floats in {config.input_range}'
    )
  if isinstance(images, jax.core.Tracer) or not getattr(images, 'is_fully_addressable', True):
    return
  largest = images.max()
  if largest > _LARGEST:
    raise UserError(
      f'images of {images.dtype} up to {float(largest):g}: give floats in {config.input_range}, '
      'or levels in 0..255 as uint8'
    )


def as_floats(config, images):
  """Check images and return floats in the model's range; see `check`."""
  check(config, images)
  if images.dtype == jnp.uint8:
    return from_levels(config, images.astype(jnp.float32))
  return images
