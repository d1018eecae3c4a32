"""Random changes of training images: the crops against TensorFlow's operation."""

import numpy as np
import pytest
from scipy import stats

from mixer_jax.data import augment
from mixer_jax.errors import UserError
from tests.helpers import configs
from tests.helpers.photos import photo

AUTHORS = ((0.05, 1.0), (0.75, 1.33))
SHAPES = [(375, 500), (500, 333), (256, 256), (100, 700), (32, 32)]
# Shape, areas, aspects: no box of three times its height has nine tenths of a square.
NO_FIT = ((224, 224), (0.9, 1.0), (3.0, 4.0))


def boxes_of_tensorflow(shape, areas, aspects, count: int) -> np.ndarray:
  """Draw (top, left, height, width) as the authors' code calls the operation; (count, 4)."""
  import tensorflow as tf

  # They name no aspect ratio: the operation's own default is meant.
  ratio = {} if aspects == AUTHORS[1] else {'aspect_ratio_range': aspects}

  def draw(_):
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      (*shape, 3),
      tf.zeros([0, 0, 4], tf.float32),
      area_range=areas,
      min_object_covered=0,
      use_image_if_no_bounding_boxes=True,
      **ratio,
    )
    return tf.concat([begin[:2], size[:2]], 0)

  tf.random.set_seed(1)
  return next(iter(tf.data.Dataset.range(count).map(draw).batch(count))).numpy()


def boxes(shape, areas, aspects, count: int, crop: str = 'tensorflow') -> np.ndarray:
  """Draw likewise by this package."""
  rng = np.random.default_rng(2)
  if crop == 'tensorflow':
    draw = lambda: augment.draw_box(shape[0], shape[1], rng, areas=areas, aspects=aspects)
  else:
    draw = lambda: augment.draw_box_by_area(shape[0], shape[1], rng, areas=areas, aspects=aspects)
  return np.array([draw() for _ in range(count)])


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
  """Return the largest Kolmogorov–Smirnov distance of area, aspect, height and position."""

  def figures(drawn):
    top, left, height, width = drawn.T.astype(float)
    return height * width, width / height, height, top, left, top + height / 2, left + width / 2

  pairs = zip(figures(ours), figures(theirs), strict=True)
  return max(stats.ks_2samp(a, b, method='asymp').statistic for a, b in pairs)


@pytest.mark.parametrize(
  ('count', 'limit'), [(4_000, 0.045), pytest.param(100_000, 0.01, marks=pytest.mark.long)]
)
def test_crops_are_distributed_as_tensorflows(count, limit):
  for shape in SHAPES if limit == 0.01 else SHAPES[:2]:
    theirs = boxes_of_tensorflow(shape, AUTHORS[0], AUTHORS[1], count)
    assert distance(boxes(shape, AUTHORS[0], AUTHORS[1], count), theirs) <= limit, shape
    # The distance could show a difference: uniform areas are far off.
    uniform = boxes(shape, AUTHORS[0], AUTHORS[1], 4_000, 'uniform-area')
    assert distance(uniform, theirs) > 0.08, shape


def test_where_no_crop_fits_it_is_the_complete_image():
  shape, areas, aspects = NO_FIT
  theirs = boxes_of_tensorflow(shape, areas, aspects, 20)
  np.testing.assert_array_equal(theirs, np.tile((0, 0, *shape), (20, 1)))
  np.testing.assert_array_equal(boxes(shape, areas, aspects, 20), theirs)
  for shape in ((40, 40), (40, 61)):
    theirs = boxes_of_tensorflow(shape, (1.0, 1.0), (1.0, 1.0), 5)
    np.testing.assert_array_equal(boxes(shape, (1.0, 1.0), (1.0, 1.0), 5), theirs)


def test_levels_are_tensorflows_to_the_bit_given_the_crop():
  import tensorflow as tf

  image = photo(375, 500)
  for seed in range(20):
    top, left, height, width = augment.draw_box(
      375, 500, np.random.default_rng(seed), areas=AUTHORS[0], aspects=AUTHORS[1]
    )
    ours = augment.inception_crop(
      image,
      224,
      np.random.default_rng(seed),
      areas=AUTHORS[0],
      aspects=AUTHORS[1],
      crop='tensorflow',
    )
    part = tf.slice(image, (top, left, 0), (height, width, 3))
    theirs = tf.image.resize(part, (224, 224), method='bilinear', antialias=False)
    np.testing.assert_array_equal(ours, tf.cast(tf.clip_by_value(theirs, 0, 255), tf.uint8))


def test_a_crop_of_earlier_runs_has_a_uniform_area():
  drawn = boxes((500, 500), (0.08, 1.0), (3 / 4, 4 / 3), 2_000, 'uniform-area')
  areas = drawn[:, 2] * drawn[:, 3] / 500**2
  # Large areas often do not fit and are drawn again.
  assert 0.46 < areas.mean() < 0.52
  image = photo(40, 40)
  out = augment.inception_crop(
    image,
    40,
    np.random.default_rng(0),
    areas=(1, 1),
    aspects=(3 / 4, 4 / 3),
    crop='uniform-area',
  )
  np.testing.assert_array_equal(out, image)


def test_a_part_of_a_square_is_anywhere_in_it():
  square = np.arange(10 * 10 * 3).reshape(10, 10, 3)
  rng = np.random.default_rng(0)
  parts = [augment.square_crop(square, 7, rng) for _ in range(4_000)]
  corners = np.array([part[0, 0, 0] // 3 for part in parts])
  for part, corner in zip(parts[:50], corners, strict=False):
    top, left = divmod(int(corner), 10)
    np.testing.assert_array_equal(part, square[top : top + 7, left : left + 7])
  # All of the 4 × 4 places, as TensorFlow's random_crop: uniformly.
  places, counts = np.unique(corners, return_counts=True)
  assert places.tolist() == [10 * top + left for top in range(4) for left in range(4)]
  assert stats.chisquare(counts).pvalue > 0.01
  np.testing.assert_array_equal(augment.square_crop(square, 10, rng), square)


def test_flips_are_half_of_the_images():
  image, rng = photo(8, 8), np.random.default_rng(0)
  flipped = [not (augment.flip(image, rng) == image).all() for _ in range(2_000)]
  assert 0.46 < np.mean(flipped) < 0.54


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'crop': 'area'}, "data.crop must be one of tensorflow, uniform-area, square, not 'area'"),
    ({'crop': 'square'}, 'data.crop=square with data.crop_resize=0: crop_resize is the side'),
    ({'crop_resize': 160}, 'data.crop=tensorflow with data.crop_resize=160'),
    ({'crop': 'square', 'crop_resize': 2**15}, r'data.crop_resize must be in 0\.\.16384, is 32768'),
    ({'crop': 'square', 'crop_resize': 160.5}, 'data.crop_resize must be in 0'),
    ({'min_crop_area': 0.5, 'max_crop_area': 0.5}, 'finds no crop of exactly 0.5 of the area'),
  ],
)
def test_settings_without_a_crop_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    configs.data(**fields)
  configs.data(crop='uniform-area', min_crop_area=0.5, max_crop_area=0.5)


def test_a_square_smaller_than_the_models_images_is_refused():
  data = configs.data(crop='square', crop_resize=160)
  assert [data.resized_side(size) for size in (128, 160)] == [160, 160]
  assert configs.data().resized_side(224) == 224
  with pytest.raises(UserError, match=r'crop_resize=160 is smaller than .* 224 px: set it to 224'):
    data.resized_side(224)
