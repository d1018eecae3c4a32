"""A Mixer matched to permuted images."""

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax.data import permute
from mixer_jax.models.mixer import match_permutation
from mixer_jax.models.resolution import grow
from tests.helpers import reference


def float64(params: dict) -> dict:
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def shuffled(config, images: np.ndarray, seed: int) -> np.ndarray:
  order = permute.order_of('patches', config.image_size, config.patch_size, seed)
  return np.stack([permute.permuted(image, order) for image in images])


@pytest.mark.parametrize('seed', [0, 1])
def test_matching_weights_give_identical_logits_on_permuted_images(seed):
  config, params, expected = reference.golden()
  images = np.asarray(expected['images'], np.float64)
  patches, within = permute.of_patches(config.image_size, config.patch_size, seed)
  matched = match_permutation(config, float64(params), patches, within)
  wanted = reference.forward(config, float64(params), images)
  found = reference.forward(config, matched, shuffled(config, images, seed))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
  # Without the matching weights the images are others.
  lost = reference.forward(config, float64(params), shuffled(config, images, seed)) - wanted
  assert np.abs(lost).max() > 1e-2 * np.abs(wanted).max()
  # And so in the model itself, in float32.
  matched = match_permutation(config, params, patches, within)
  logits = mixer_jax.apply(config, matched, shuffled(config, expected['images'], seed))
  np.testing.assert_allclose(logits, expected['logits'], rtol=0, atol=1e-5)


def test_a_grown_mixer_is_matched_too():
  config, params, expected = reference.golden()
  big, grown = grow(config, params, 2 * config.image_size)
  images = np.kron(np.asarray(expected['images'], np.float64), np.ones((1, 2, 2, 1)))
  images = images + np.random.default_rng(0).normal(size=images.shape)
  matched = match_permutation(
    big, float64(grown), *permute.of_patches(big.image_size, big.patch_size, 5)
  )
  wanted = reference.forward(big, float64(grown), images)
  found = reference.forward(big, matched, shuffled(big, images, 5))
  np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-13 * np.abs(wanted).max())
