"""Models for another image size than they were trained at."""

from typing import Any

from mixer_jax.models import family


def grow(config, params: Any, image_size: int) -> tuple[Any, Any]:
  """Return the same model for images of `image_size` pixels.

  A Mixer needs an integer multiple K of its own size, and its token MLPs grow block-diagonally by
  K² (section 3, Appendix C); a ResNet takes any size. Arrays that change come back on the host
  (NumPy); the others are passed through.

  Raises:
    UserError: the model cannot have this size.
  """
  return family.capability(config, 'grow')(config, params, image_size)
