"""Permuted images: their definition, and the same order in every batch."""

import numpy as np
import pytest

from mixer_jax.data import permute, pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.errors import UserError
from tests.helpers import configs


def image(size: int = 12) -> np.ndarray:
  """Return an image of different colours."""
  places = np.arange(size**2, dtype=np.uint8)
  return np.stack([places, 255 - places, places // 2], -1).reshape(size, size, 3)


def cut(picture: np.ndarray, patch: int) -> list[np.ndarray]:
  grid = range(0, len(picture), patch)
  return [picture[i : i + patch, j : j + patch].reshape(-1, 3) for i in grid for j in grid]


def test_patches_move_as_units_and_their_pixels_in_one_way():
  patches, within = permute.of_patches(12, 4, seed=3)
  before = cut(image(), 4)
  after = cut(permute.permuted(image(), permute.order_of('patches', 12, 4, 3)), 4)
  for place, patch in enumerate(after):
    np.testing.assert_array_equal(patch, before[patches[place]][within])
  assert sorted(patches) == list(range(9))
  assert sorted(within) == list(range(16))
  assert (patches != np.arange(9)).any()
  assert (within != np.arange(16)).any()


def test_pixels_keep_their_colours_and_go_anywhere():
  order = permute.order_of('pixels', 12, 4, 0)
  assert order is not None
  found = permute.permuted(image(), order).reshape(-1, 3)
  np.testing.assert_array_equal(found[np.argsort(order)], image().reshape(-1, 3))
  moved = np.abs(order // 12 // 4 - np.arange(144) // 12 // 4)
  assert moved.any()  # also between patches


def test_one_permutation_per_seed_and_none_by_default():
  assert permute.order_of('none', 12, 5, 0) is None
  np.testing.assert_array_equal(permute.permuted(image(), None), image())
  for inputs in ('patches', 'pixels'):
    first, second = (np.array(permute.order_of(inputs, 12, 4, seed)) for seed in (0, 1))
    assert (first != second).any()
    permute.order_of.cache_clear()
    np.testing.assert_array_equal(np.array(permute.order_of(inputs, 12, 4, 0)), first)


def test_training_and_evaluation_see_the_same_permutation(digits_dir):
  train = open_source('digits', 'train', str(digits_dir))
  test = open_source('digits', 'test', str(digits_dir))

  def batches(**fields):
    data = configs.data(name='digits', eval_recipe='vit-jax', threads=0, **fields)
    first = pipeline.train_batches(train, data, image_size=12, batch_size=4, seed=0)
    return next(first), next(pipeline.eval_batches(test, data, image_size=12, batch_size=4))

  plain = batches()
  for inputs in ('patches', 'pixels'):
    order = permute.order_of(inputs, 12, 4, 7)
    shuffled = batches(permutation=inputs, permutation_patch=4, permutation_seed=7)
    for before, after in zip(plain, shuffled, strict=True):
      np.testing.assert_array_equal(before['label'], after['label'])
      assert (before['image'] != after['image']).any()
      for one, other in zip(before['image'], after['image'], strict=True):
        np.testing.assert_array_equal(permute.permuted(one, order), other)
        assert one.dtype == other.dtype


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'permutation': 'rows'}, "must be one of none, patches, pixels, not 'rows'"),
    ({'permutation_patch': 0}, 'data.permutation_patch must be a positive whole number'),
    ({'permutation_seed': -1}, 'data.permutation_seed must be a whole number'),
  ],
)
def test_bad_fields_are_rejected(fields, message):
  with pytest.raises(UserError, match=message):
    configs.data(name='digits', **fields)


def test_patches_that_do_not_divide_the_image_are_rejected():
  data = configs.data(name='digits', permutation='patches', permutation_patch=5)
  with pytest.raises(UserError, match='permutation_patch 5 does not divide the image size 12'):
    data.order(12)
