"""Evaluation recipes against the authors' operations in TensorFlow, and against Pillow."""

import io
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import recipes
from mixer_jax.data.decode import UndecodableError
from mixer_jax.errors import UserError
from tests.helpers.photos import encoded, jpegs, photo


def crop_of_tensorflow(image, size: int):
  top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
  return image[top : top + size, left : left + size]


# The `method` of `tf.image.resize` in the authors' code (big_vision, `pp/ops_image.py`):
# `resize_small` takes area; `resize` takes bilinear, without antialiasing.
METHODS = {'resmall-crop': 'area', 'resize-crop': 'bilinear'}


def authors(data: bytes, recipe: str, size: int = 224, target: int = 256) -> np.ndarray:
  """Levels of the authors' evaluation input: their chain of TensorFlow operations.

  Decode, resize, cast to uint8, central crop; vit-jax has no cast and no crop.
  """
  import tensorflow as tf

  image = tf.io.decode_image(data, channels=3, expand_animations=False)
  if recipe == 'vit-jax':
    return tf.image.resize(image, (size, size)).numpy()
  height = width = target
  if recipe == 'resmall-crop':
    shape = tf.cast(tf.shape(image)[:2], tf.float32)
    shape = tf.round(shape * (tf.cast(target, tf.float32) / tf.reduce_min(shape)))
    height, width = tf.cast(shape, tf.int32).numpy()
  resized = tf.image.resize(image, (height, width), method=METHODS[recipe], antialias=False)
  resized = tf.cast(resized, tf.uint8)
  return crop_of_tensorflow(resized.numpy(), size)


@pytest.mark.parametrize('recipe', ['resmall-crop', 'resize-crop'])
def test_the_papers_recipes_are_the_authors_pipeline_to_the_bit(recipe):
  for name, data in jpegs().items():
    ours = recipes.eval_image(data, 224, recipe, 0.875)
    np.testing.assert_array_equal(ours, authors(data, recipe), err_msg=name)


@pytest.mark.parametrize('seed', range(8))
def test_also_for_images_of_any_size(seed):
  rng = np.random.default_rng(seed)
  height, width = (int(2 ** rng.uniform(3, 10.5)) for _ in range(2))
  data = encoded(photo(height, width, seed % 2), 'PNG')
  for recipe in ('resmall-crop', 'resize-crop'):
    for size, target in ((224, 256), (448, 512), (32, 36)):
      ours = recipes.eval_image(data, size, recipe, size / target)
      np.testing.assert_array_equal(ours, authors(data, recipe, size, target))


def test_vit_jax_is_that_repositorys_pipeline():
  for name, data in jpegs().items():
    ours = recipes.eval_image(data, 224, 'vit-jax', 0.875)
    theirs = authors(data, 'vit-jax')
    np.testing.assert_array_equal(ours, theirs, err_msg=name)


def test_a_flat_image_keeps_its_level_where_tensorflow_keeps_it():
  for level in (0, 1, 7, 128, 254, 255):
    data = encoded(np.full((301, 407, 3), level, np.uint8), 'PNG')
    for recipe in recipes.RECIPES:
      ours = recipes.eval_image(data, 224, recipe, 0.875)
      np.testing.assert_allclose(ours, level, atol=1 if recipe == 'resmall-crop' else 1e-3)


@pytest.mark.parametrize(
  ('recipe', 'how', 'method'),
  [
    ('timm', Image.Resampling.BICUBIC, 'bicubic'),
    ('timm-bilinear', Image.Resampling.BILINEAR, 'bilinear'),
  ],
)
def test_timms_transform_is_pillows_and_near_tensorflows(recipe, how, method):
  import tensorflow as tf

  for name, data in jpegs().items():
    ours = recipes.eval_image(data, 224, recipe, 0.875)
    image = Image.open(io.BytesIO(data)).convert('RGB')
    short = min(image.size)
    width, height = (int(256 * side / short) for side in image.size)
    wanted = image.resize((width, height), how)
    left, top = round((width - 224) / 2), round((height - 224) / 2)
    wanted = np.asarray(wanted.crop((left, top, left + 224, top + 224)))
    np.testing.assert_array_equal(ours, wanted, err_msg=name)
    # An oracle that is not Pillow: the same filters in floats; Pillow rounds between two passes.
    theirs = tf.image.resize(np.asarray(image), (height, width), method=method, antialias=True)
    theirs = np.clip(np.rint(theirs.numpy()), 0, 255)[top : top + 224, left : left + 224]
    assert np.abs(ours - theirs).mean() < 0.25, name


def test_recipes_differ_so_their_names_matter():
  data = encoded(photo(375, 500))
  seen = {name: recipes.eval_image(data, 224, name, 0.875) for name in recipes.RECIPES}
  for a in seen:
    for b in seen:
      if a < b:
        assert np.abs(seen[a].astype(float) - seen[b]).mean() > 0.5, (a, b)
  assert {name for name, image in seen.items() if image.dtype == np.float32} == {'vit-jax'}


def test_a_crop_fraction_of_one_keeps_a_square_image():
  image = photo(96, 96)
  data = encoded(image, 'PNG')
  for recipe in recipes.RECIPES:
    np.testing.assert_array_equal(recipes.eval_image(data, 96, recipe, 1.0), image)


def test_only_the_centre_of_a_thin_image_is_resized():
  data = encoded(np.tile(photo(1, 64), (1, 300, 1)), 'PNG')  # 1 × 19,200: 4,915,200 wide at 256
  tracemalloc.start()
  image = recipes.eval_image(data, 224, 'resmall-crop', 0.875)
  assert tracemalloc.get_traced_memory()[1] < 2**24
  tracemalloc.stop()
  assert image.shape == (224, 224, 3)
  for recipe in ('timm', 'timm-bilinear'):
    with pytest.raises(UndecodableError, match='after resizing exceed the limit'):
      recipes.eval_image(data, 224, recipe, 0.875)


def test_a_large_image_is_reduced_in_strips_to_the_same_bits(monkeypatch):
  for height, width in ((301, 407), (64, 500), (500, 64)):
    data = encoded(photo(height, width), 'PNG')
    at_once = recipes.eval_image(data, 224, 'resmall-crop', 0.875)
    for pixels in (1, 17 * width, 100 * width):
      monkeypatch.setattr(recipes, '_STRIP', pixels)
      in_strips = recipes.eval_image(data, 224, 'resmall-crop', 0.875)
      np.testing.assert_array_equal(in_strips, at_once)
    monkeypatch.undo()


@pytest.mark.parametrize('recipe', ['resmall-crop', 'resize-crop', 'vit-jax'])
def test_a_large_image_takes_little_memory_besides_its_levels(recipe):
  data = encoded(np.tile(photo(500, 500), (6, 6, 1)), 'BMP')  # 9 megapixels
  recipes.eval_image(data, 224, recipe, 0.875)
  tracemalloc.start()
  recipes.eval_image(data, 224, recipe, 0.875)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  assert peak < 27e6 + 35e6


def test_a_recipe_is_described_with_its_numbers():
  text = recipes.describe('resmall-crop', 448, 0.875, '[-1, 1]')
  assert text.startswith('resmall-crop: JPEG by fast DCT; shorter side to 512')
  assert text.endswith('central 448, then to [-1, 1]')
  for recipe in recipes.RECIPES:
    assert '{' not in recipes.describe(recipe, 224, 0.875, '[0, 1]')


@pytest.mark.parametrize(('recipe', 'fraction'), [('crop', 0.875), ('timm', 0.0), ('timm', 1.5)])
def test_bad_recipes_are_rejected(recipe, fraction):
  with pytest.raises(UserError, match=r'data\.eval_'):
    recipes.check(recipe, fraction)
