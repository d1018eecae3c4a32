"""Search for a batch size: the fastest that fits, or the largest below one that does not."""

import logging
from collections.abc import Callable

from mixer_jax.errors import DoesNotFitError

log = logging.getLogger(__name__)

MOST = 2**20
"""Images per batch, over all devices; above it, arrays could exceed int32 indices."""
_GAIN = 1.02  # at least one of two doublings must bring this factor for the search to continue


def best(rate: Callable[[int], float], unit: int) -> int:
  """Return the batch size with the most images/s among `unit`, 2 × `unit`, 4 × `unit`, …

  The search ends at a batch that does not fit, or after two doublings in a row without a gain.

  Args:
    rate: images/s at a batch size; raises `DoesNotFitError`.
    unit: the smallest batch, one image per device.

  Raises:
    DoesNotFitError: not even `unit` fits.
  """
  rates: dict[int, float] = {}
  size, without_gain = unit, 0
  while without_gain < 2 and size <= MOST:
    try:
      new = rate(size)
    except DoesNotFitError as error:
      if not rates:
        raise
      log.info('batch size %d does not fit: %s', size, error)
      break
    gained = new > _GAIN * max(rates.values(), default=0.0)
    without_gain = 0 if gained else without_gain + 1
    rates[size] = new
    size *= 2
  return max(rates, key=lambda size: rates[size])


def largest(fits: Callable[[int], bool], asked: int, unit: int) -> int:
  """Return the largest multiple of `unit` below `asked` that fits; 0: none does.

  The result is exact to a sixteenth. `asked` itself does not fit.
  """
  low, high = 0, asked // unit
  while high - low > max(low // 16, 1):
    middle = (low + high) // 2 if low else high // 2
    low, high = (middle, high) if fits(middle * unit) else (low, middle)
  return low * unit
