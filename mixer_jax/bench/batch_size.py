"""Which batch size to take: the fastest that fits, or how much of what was asked does."""

import logging
from collections.abc import Callable

from mixer_jax.errors import DoesNotFitError

log = logging.getLogger(__name__)

MOST = 2**20
"""Images a batch, over all devices; beyond, arrays could have more elements than int32 counts."""
_GAIN = 1.02  # that doubling must bring, once in two times, for the search to go on


def best(rate: Callable[[int], float], unit: int) -> int:
  """The batch size with the most images/s: of `unit`, twice as many, and so on.

  Ends where a batch does not fit, or two doublings on end were not worth it.

  Args:
    rate: images/s at a batch size; raises `DoesNotFitError`.
    unit: the least batch, an image a device.

  Raises:
    DoesNotFitError: not even `unit` fits.
  """
  rates: dict[int, float] = {}
  size, vain = unit, 0
  while vain < 2 and size <= MOST:
    try:
      new = rate(size)
    except DoesNotFitError as error:
      if not rates:
        raise
      log.info('batch %d does not fit: %s', size, error)
      break
    vain = 0 if new > _GAIN * max(rates.values(), default=0.0) else vain + 1
    rates[size] = new
    size *= 2
  return max(rates, key=lambda size: rates[size])


def largest(fits: Callable[[int], bool], asked: int, unit: int) -> int:
  """The largest multiple of `unit` below `asked` that fits, within a sixteenth; 0: none does.

  `asked` does not fit.
  """
  low, high = 0, asked // unit
  while high - low > max(low // 16, 1):
    middle = (low + high) // 2 if low else high // 2
    low, high = (middle, high) if fits(middle * unit) else (low, middle)
  return low * unit
