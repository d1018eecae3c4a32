"""The platforms that JAX may use: those of the variable JAX_PLATFORMS, or all."""

import jax

from mixer_jax.errors import UserError, one_line


def check() -> None:
  """Start the devices of this process, after it has joined the others of a pod.

  Raises:
    UserError: JAX_PLATFORMS names a platform that is not there.
  """
  try:
    jax.devices()
  except (RuntimeError, AssertionError) as error:
    wanted = jax.config.jax_platforms  # pyright: ignore[reportAttributeAccessIssue]
    if not wanted:
      raise
    reason = '' if isinstance(error, AssertionError) else f' ({one_line(error).split(" (set")[0]})'
    raise UserError(
      f'JAX_PLATFORMS={wanted}: this machine has no such platform{reason}: unset it, or set cpu'
    ) from error
