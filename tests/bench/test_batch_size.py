"""Search for a batch size, on simulated devices."""

import pytest

from mixer_jax.bench import batch_size
from mixer_jax.errors import DoesNotFitError


def device(most: int, best: int, tried: list[int]):
  """Rate of a device that fits `most` images and is no faster above `best`."""

  def rate(size: int) -> float:
    tried.append(size)
    if size > most:
      raise DoesNotFitError('no')
    return min(size, best) - size / 10**6

  return rate


def test_the_fastest_that_fits():
  tried = []
  assert batch_size.best(device(100, 1000, tried), 8) == 64
  assert tried == [8, 16, 32, 64, 128]


def test_two_doublings_without_gain_end_the_search():
  tried = []
  assert batch_size.best(device(10**6, 64, tried), 8) == 64
  assert tried == [8, 16, 32, 64, 128, 256]


def test_one_slow_size_does_not_end_the_search():
  rates = {1: 10.0, 2: 9.0, 4: 20.0, 8: 20.0, 16: 20.0}
  assert batch_size.best(rates.__getitem__, 1) == 4


def test_no_batch_size_that_fits_is_an_error():
  with pytest.raises(DoesNotFitError):
    batch_size.best(device(7, 1000, []), 8)


def test_the_search_ends():
  assert batch_size.best(float, 1) == batch_size.MOST


@pytest.mark.parametrize('most', [0, 8, 9, 24, 100, 1000, 4093])
@pytest.mark.parametrize('asked', [4096, 10**6])
def test_the_largest_that_fits(most, asked):
  found = batch_size.largest(lambda size: size <= most, asked, 8)
  assert found % 8 == 0
  assert found <= most
  assert found >= (most // 8 * 8) * 15 / 16 - 8
  assert (found > 0) == (most >= 8)
