"""Digests: exact, independent of sharding, moved by any bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from mixer_jax.checkpoints.digest import digest
from mixer_jax.parallel.mesh import make_mesh


def in_numpy(x: np.ndarray) -> int:
  words = x.reshape(-1).view({2: np.uint16, 4: np.uint32, 1: np.uint8}[x.dtype.itemsize])
  odd = 2 * np.arange(words.size, dtype=np.uint64) + 1
  return int((words.astype(np.uint64) * odd).sum() % 2**32)


@pytest.mark.parametrize('dtype', [np.float32, np.int32, np.float16, np.uint8])
@pytest.mark.parametrize('shape', [(), (7,), (4, 3), (2, 3, 4, 5)])
def test_it_is_the_weighted_sum_of_the_words(dtype, shape):
  x = np.random.default_rng(0).normal(0, 50, shape).astype(dtype)
  digests, broken = digest({'a': {'b': jnp.asarray(x)}})
  assert digests == {'a/b': in_numpy(np.atleast_1d(x))}
  assert not broken


@pytest.mark.parametrize('spec', [('data',), (None, 'fsdp'), ('data', ('fsdp', 'model')), ()])
def test_it_does_not_depend_on_the_sharding(spec):
  x = np.random.default_rng(0).normal(size=(16, 8)).astype(np.float32)
  sharded = jax.device_put(x, NamedSharding(make_mesh(2, 2, 2), PartitionSpec(*spec)))
  assert digest([sharded]) == digest([x])


def test_every_flipped_bit_and_swapped_pair_changes_it():
  x = np.random.default_rng(0).normal(size=8).astype(np.float32)
  original = digest([x])[0]['0']
  for word in range(8):
    for bit in range(32):
      flipped = x.view(np.uint32).copy()
      flipped[word] ^= np.uint32(1 << bit)
      assert digest([flipped.view(np.float32)])[0]['0'] != original, (word, bit)
  swapped = x[[1, 0, *range(2, 8)]]
  assert digest([swapped])[0]['0'] != original


@pytest.mark.parametrize('value', [np.nan, np.inf, -np.inf])
def test_leaves_that_are_not_finite_are_named(value):
  tree = {'good': jnp.ones(3), 'bad': jnp.array([0, value, 1]), 'count': jnp.int32(3)}
  assert digest(tree)[1] == ['bad']
