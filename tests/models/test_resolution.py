"""Growth of resolution against the exact oracle: the mean over the parts of the image."""

import dataclasses

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models.resolution import grow
from tests.helpers import reference


@pytest.mark.parametrize('factor', [2, 3])
@pytest.mark.parametrize('gelu', ['tanh', 'erf'])
def test_logits_are_the_mean_over_the_parts(factor, gelu):
  config, params, _ = reference.golden()
  config = dataclasses.replace(config, gelu=gelu)
  size = config.image_size
  big_config, big_params = grow(config, params, factor * size)
  images = np.random.default_rng(0).uniform(-1, 1, (2, factor * size, factor * size, 3))
  parts = [
    reference.forward(
      config, params, images[:, i * size : (i + 1) * size, j * size : (j + 1) * size]
    )
    for i in range(factor)
    for j in range(factor)
  ]
  grown = reference.forward(big_config, big_params, images)
  np.testing.assert_allclose(grown, np.mean(parts, axis=0), atol=1e-13, rtol=0)
  logits = mixer_jax.apply(big_config, big_params, images.astype(np.float32))
  np.testing.assert_allclose(logits, grown, atol=1e-5, rtol=0)


def test_shapes_and_what_stays():
  config, params, _ = reference.golden()
  big_config, big_params = grow(config, params, 64)
  assert big_config == dataclasses.replace(config, image_size=64, tokens_mlp_dim=48)
  assert big_config.num_tokens == 64
  wanted = jax.tree.map(lambda leaf: leaf.shape, models.shapes(big_config))
  assert jax.tree.map(lambda leaf: leaf.shape, big_params) == wanted
  assert big_params['stem'] is params['stem']
  assert big_params['MixerBlock_1']['channel_mixing'] is params['MixerBlock_1']['channel_mixing']
  assert grow(config, params, 32) == (config, params)


@pytest.mark.parametrize(('name', 'count'), [('B/16', 86_996_392), ('L/16', 280_500_584)])
def test_parameter_counts_of_the_paper_at_448(name, count):
  small = mixer_jax.VARIANTS[name]
  params = jax.tree.map(
    lambda leaf: np.broadcast_to(np.float32(0), leaf.shape),
    models.shapes(dataclasses.replace(small, num_blocks=1)),
  )
  big, _ = grow(dataclasses.replace(small, num_blocks=1), params, 448)
  assert models.num_params(dataclasses.replace(big, num_blocks=small.num_blocks)) == count


@pytest.mark.parametrize('size', [48, 16, 0, -32])
def test_other_sizes_are_refused(size):
  config, params, _ = reference.golden()
  with pytest.raises(UserError, match='not an integer multiple of the 32 px'):
    grow(config, params, size)
