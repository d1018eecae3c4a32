"""Order of examples and their random numbers, compared with Grain's."""

import concurrent.futures
import pickle

import grain
import numpy as np
import pytest

from mixer_jax.data.order import Order

SIZES = [1, 2, 3, 5, 17, 100, 1797, 50_000, 65_536, 65_537, 262_145, 1_281_167, 14_197_122, 2**32]
SEEDS = [0, 1, 2**31, 2**32 - 1]


def in_grain(size: int, seed: int, draw=None) -> grain.MapDataset:
  """Return the order as Grain makes it; `draw` maps a record and its generator."""
  order = grain.MapDataset.range(size).seed(seed).shuffle().repeat(None)
  return order.random_map(draw or (lambda record, _: record))


def positions(size: int) -> list[int]:
  """Return positions in the first epochs, at their borders, and far away."""
  near = {0, 1, 2, 15, 16, size // 2, 10**6}
  borders = {epoch * size + step for epoch in (1, 2, 3, 1000) for step in (-1, 0, 1)}
  return sorted(near | borders | {2**40 - 1, 2**40, 2**40 + 3, 2**32 * size, 2**32 * size + 1})


def drawn(rng: np.random.Generator) -> list:
  """Draw in several ways; some leave drawn bits in the generator, which must not reach the next."""
  return [
    *rng.random(3),
    rng.integers(10),
    rng.uniform(0.1, 0.9),
    rng.standard_normal(),
    *rng.permutation(4),
    rng.random(dtype=np.float32),
  ]


@pytest.mark.parametrize('seed', SEEDS)
@pytest.mark.parametrize('size', SIZES)
def test_records_are_those_of_grain(size, seed):
  order, wanted = Order(size, seed), in_grain(size, seed)
  places = [place for place in positions(size) if place < 2**62]
  found = order.records(places)
  assert found.dtype == np.int64
  assert found.tolist() == [wanted[place] for place in places]


@pytest.mark.parametrize('size', [1, 17, 1797, 1_281_167])
@pytest.mark.parametrize('seed', [*SEEDS, 2**31 - 1, 2**40 + 7])
def test_random_numbers_are_those_of_grain(size, seed):
  order, wanted = Order(size, seed), in_grain(size, seed, lambda _, rng: drawn(rng))
  for place in positions(size):
    assert drawn(order.generator(place)) == wanted[place]


def test_a_generator_begins_again_at_its_position():
  order = Order(10, 3)
  first = drawn(order.generator(4))
  assert drawn(order.generator(5)) != first
  assert drawn(order.generator(4)) == first


@pytest.mark.parametrize('size', [5, 1797, 70_000])
def test_an_epoch_is_a_permutation_of_all_examples(size):
  order = Order(size, 7)
  epochs = [order.records(np.arange(epoch * size, (epoch + 1) * size)) for epoch in range(3)]
  for epoch in epochs:
    np.testing.assert_array_equal(np.sort(epoch), np.arange(size))
  assert len({epoch.tobytes() for epoch in epochs}) == 3


def test_threads_do_not_disturb_each_other():
  order = Order(1000, 0)
  wanted = [drawn(order.generator(place)) for place in range(2000)]

  def draw(place: int) -> list:
    rng = order.generator(place)
    order.records([place])
    return drawn(rng)

  with concurrent.futures.ThreadPoolExecutor(8) as threads:
    assert list(threads.map(draw, range(2000))) == wanted


def test_an_order_is_the_same_in_another_process():
  order = Order(1_281_167, 5)
  copy = pickle.loads(pickle.dumps(order))
  np.testing.assert_array_equal(copy.records(range(20)), order.records(range(20)))
  assert drawn(copy.generator(9)) == drawn(order.generator(9))


@pytest.mark.parametrize('size', [0, 2**32 + 1])
def test_other_sizes_are_refused(size):
  with pytest.raises(ValueError, match=str(size)):
    Order(size, 0)
