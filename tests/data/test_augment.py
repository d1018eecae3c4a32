"""Random changes of training images."""

import numpy as np

from mixer_jax.data import augment


def test_inception_crop_draws_areas_and_aspects_in_range():
  # Red is the row, green the column, so the crop follows from the result.
  y, x = np.mgrid[:200, :250].astype(np.uint8)
  image = np.stack([y, x, 0 * x], -1)
  rng = np.random.default_rng(0)
  areas, ratios = [], []
  for _ in range(400):
    out = augment.inception_crop(image, 64, rng, areas=(0.08, 1), aspects=(3 / 4, 4 / 3)).astype(
      float
    )
    h = (out[-1, 0, 0] - out[0, 0, 0]) * 64 / 63
    w = (out[0, -1, 1] - out[0, 0, 1]) * 64 / 63
    areas.append(h * w / (200 * 250))
    ratios.append(w / h)
  assert out.shape == (64, 64, 3)
  assert 0.06 < min(areas) < 0.14
  assert 0.9 < max(areas) <= 1.05
  assert 0.68 < min(ratios) < 0.8
  assert 1.25 < max(ratios) < 1.42
  assert abs(np.mean(areas) - 0.5) < 0.08


def test_a_minimum_area_of_one_keeps_a_square_image():
  image = np.random.default_rng(0).integers(256, size=(40, 40, 3)).astype(np.uint8)
  out = augment.inception_crop(
    image, 40, np.random.default_rng(0), areas=(1, 1), aspects=(3 / 4, 4 / 3)
  )
  np.testing.assert_array_equal(out, image)
