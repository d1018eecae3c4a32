"""Images of an evaluation batch -> input of a model."""

import dataclasses

import jax
import numpy as np
import pytest
from PIL import Image

from mixer_jax import models
from mixer_jax.errors import UserError

CONFIG = models.MixerConfig(4, 1, 8, 4, 8, image_size=8, num_classes=3)


def test_bytes_pass_and_levels_are_mapped():
  levels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
  assert models.as_input(CONFIG, levels) is levels
  unit = dataclasses.replace(CONFIG, input_range='[0, 1]')
  for config, wanted in ((CONFIG, levels / 127.5 - 1), (unit, levels / 255)):
    found = models.as_input(config, levels.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)


PARAMS = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.shapes(CONFIG))


def images(level: float, dtype: type = np.float32) -> np.ndarray:
  return np.full((2, 8, 8, 3), level, dtype)


@pytest.mark.parametrize('function', [models.apply, models.features])
@pytest.mark.parametrize('put', [np.asarray, jax.numpy.asarray])
def test_floats_in_0_to_255_are_refused(function, put):
  mixed = images(0)
  mixed[1, 3, 4, 1] = 200  # a level anywhere
  with pytest.raises(UserError, match=r'up to 200: give floats in \[-1, 1\], or levels .* uint8'):
    function(CONFIG, PARAMS, put(mixed))
  for level in (-1, 0, 1, 2.64):  # the last is white, normalised by ImageNet's mean and deviation
    function(CONFIG, PARAMS, put(images(level)))
  function(CONFIG, PARAMS, put(images(200, np.uint8)))


def test_arrays_that_are_traced_are_not_checked():
  jax.make_jaxpr(lambda x: models.features(CONFIG, PARAMS, x))(images(200))
  jax.eval_shape(lambda x: models.apply(CONFIG, PARAMS, x), images(200))


@pytest.mark.parametrize('function', [models.apply, models.features])
@pytest.mark.parametrize(
  ('given', 'message'),
  [
    (images(0)[:0], r'images of shape \(0, 8, 8, 3\): the batch is empty'),
    (images(0)[0], r'images of shape \(8, 8, 3\): this model takes \(batch, 8, 8, 3\), RGB'),
    (images(0).tolist(), r'not list: .*np.asarray\(image\)'),
    ([Image.new('RGB', (8, 8))], r'not list: .*np.asarray\(image\)'),
    (Image.new('RGB', (8, 8)), r'\(batch, 8, 8, 3\), not Image: .*np.asarray\(image\)'),
    (None, 'not NoneType'),
    (images(7, np.int32), 'images of int32: give uint8 in 0..255, or floats in'),
    (images(0, bool), 'images of bool'),
  ],
)
def test_what_is_no_batch_of_images_is_refused_in_one_line(function, given, message):
  with pytest.raises(UserError, match=message) as error:
    function(CONFIG, PARAMS, given)
  assert '\n' not in str(error.value)
