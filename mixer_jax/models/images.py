"""Images as every model takes them: of its size, mapped to its range."""

import jax.numpy as jnp

from mixer_jax.errors import UserError

INPUT_RANGES = {'[-1, 1]': (127.5, 1.0), '[0, 1]': (255.0, 0.0)}
"""Range -> (divisor, what is taken off) of a pixel in 0..255."""


def from_levels(config, levels):
  """Pixels in 0..255, any float array -> in the model's `input_range`."""
  divisor, offset = INPUT_RANGES[config.input_range]
  return levels / divisor - offset


def as_input(config, images):
  """Return images as `apply` takes them, of levels in 0..255: uint8 as they are, floats scaled."""
  return images if images.dtype == jnp.uint8 else from_levels(config, images)


def as_floats(config, images):
  """(B, image_size, image_size, 3) images, floats or uint8 -> floats in the model's range.

  Raises:
    UserError: images of another shape or dtype.
  """
  size, shape = config.image_size, getattr(images, 'shape', type(images).__name__)
  if isinstance(shape, str) or len(shape) != 4 or shape[1:] != (size, size, 3):
    raise UserError(f'images of shape {shape}: this model takes (batch, {size}, {size}, 3), RGB')
  if images.dtype == jnp.uint8:
    return from_levels(config, images.astype(jnp.float32))
  if not jnp.issubdtype(images.dtype, jnp.floating):
    raise UserError(
      f'images of {images.dtype}: give uint8 in 0..255, or floats in {config.input_range}'
    )
  return images
