"""Images as every model takes them: of the model's size, mapped to its input range."""

import jax.numpy as jnp

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


def as_floats(config, images):
  """Check images of shape (B, image_size, image_size, 3) and return floats in the model's range.

  Args:
    images: floats in the model's range, or uint8.

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
