"""Training images against their steps, and reduced decoding against TensorFlow's."""

import numpy as np
import pytest

from mixer_jax.data import augment
from mixer_jax.data.augment import reduction, scaled
from mixer_jax.data.decode import UndecodableError, decode
from mixer_jax.data.permute import permuted
from mixer_jax.data.randaugment import randaugment
from mixer_jax.data.training_image import training_image
from mixer_jax.errors import UserError
from tests.helpers import configs
from tests.helpers.photos import encoded, jpegs, photo

SIZE = 32
AREAS, ASPECTS = (0.05, 1.0), (0.75, 1.33)


def made(data: bytes, seed: int, size: int = SIZE, see=None, **fields) -> np.ndarray:
  config = configs.data(
    **{'min_crop_area': AREAS[0], 'flip': False, 'randaugment_layers': 0, **fields}
  )
  return training_image(data, config, size, np.random.default_rng(seed), see)


@pytest.mark.parametrize('crop', augment.CROPS)
def test_it_is_the_steps_one_after_the_other(crop):
  fields = {'flip': True, 'randaugment_layers': 2, 'randaugment_magnitude': 15.0}
  fields |= {'permutation': 'patches', 'permutation_patch': 8}
  side = SIZE
  if crop == 'square':
    side = fields['crop_resize'] = 40
  config = configs.data(crop=crop, **fields)
  for seed, data in enumerate(jpegs().values()):
    rng = np.random.default_rng(seed)
    image = augment.inception_crop(decode(data), side, rng, areas=AREAS, aspects=ASPECTS, crop=crop)
    if crop == 'square':
      image = augment.square_crop(image, SIZE, rng)
    image = randaugment(augment.flip(image, rng), rng, layers=2, magnitude=15.0)
    wanted = permuted(image, config.order(SIZE))
    np.testing.assert_array_equal(made(data, seed, crop=crop, **fields), wanted)


def test_reduced_jpegs_have_tensorflows_levels():
  import tensorflow as tf

  for name, data in jpegs().items():
    for factor in (1, 2, 4, 8):
      theirs = tf.io.decode_jpeg(data, channels=3, ratio=factor).numpy()
      np.testing.assert_array_equal(decode(data, factor), theirs, err_msg=f'{name}, 1/{factor}')


def test_a_large_crop_is_cut_from_tensorflows_reduced_image():
  import tensorflow as tf

  factors = []
  for number, (name, data) in enumerate(jpegs().items()):
    height, width = decode(data).shape[:2]
    box = augment.draw_box(
      height, width, np.random.default_rng(number), areas=AREAS, aspects=ASPECTS
    )
    factors.append(factor := reduction(box, SIZE))
    image = tf.io.decode_jpeg(data, channels=3, ratio=factor)
    top, left, tall, wide = scaled(box, (height, width), image.shape[:2])
    part = tf.slice(image, (top, left, 0), (tall, wide, 3))
    wanted = tf.cast(tf.image.resize(part, (SIZE, SIZE), antialias=False), tf.uint8)
    result = made(data, number, decode_scale='auto')
    np.testing.assert_array_equal(result, wanted, err_msg=name)
  assert set(factors) == {1, 2, 4, 8}


def test_bits_crop_is_that_of_tensorflows_operations_at_the_same_place():
  import tensorflow as tf

  for number, data in enumerate(jpegs().values()):
    image = tf.io.decode_jpeg(data, channels=3)
    for scale, factor in (('none', 1), ('auto', reduction((0, 0, *image.shape[:2]), 48))):
      # As BiT's input pipeline, whose fractions of a level are rounded here.
      seen = tf.io.decode_jpeg(data, channels=3, ratio=factor)
      square = tf.image.resize(seen, [48, 48])
      top, left = np.random.default_rng(number).integers(48 - SIZE + 1, size=2)
      wanted = np.rint(tf.slice(square, (top, left, 0), (SIZE, SIZE, 3)))
      result = made(data, number, crop='square', crop_resize=48, decode_scale=scale)
      np.testing.assert_array_equal(result, wanted)


def test_what_is_not_reduced_is_as_without_it():
  jpeg = encoded(photo(300, 400))
  early = jpeg.replace(b'\xff\xda', b'\x00\x00\xff\xda', 1)  # malformed: read by Pillow
  small = encoded(photo(60, 60))
  for data in (encoded(photo(300, 400), 'PNG'), early, small):
    for seed in range(5):
      plain = made(data, seed)
      np.testing.assert_array_equal(made(data, seed, decode_scale='auto'), plain)
  assert (made(jpeg, 0, decode_scale='auto') != made(jpeg, 0)).any()


def test_a_reduced_crop_is_the_same_part_and_large_enough():
  rng = np.random.default_rng(0)
  for _ in range(2_000):
    height, width = (int(side) for side in rng.integers(1, 3_000, 2))
    box = augment.draw_box(height, width, rng, areas=AREAS, aspects=ASPECTS)
    factor = reduction(box, 224)
    assert factor == 1 or min(box[2:]) >= 224 * factor
    assert factor == 8 or min(box[2:]) < 224 * 2 * factor
    new = -(-height // factor), -(-width // factor)
    top, left, tall, wide = scaled(box, (height, width), new)
    assert 0 <= top <= top + tall <= new[0]
    assert 0 <= left <= left + wide <= new[1]
    assert min(tall, wide) >= min(224, *box[2:])
    assert abs(top * factor - box[0]) <= 2 * factor
    assert abs(tall * factor - box[2]) <= 2 * factor


@pytest.mark.parametrize('scale', augment.DECODE_SCALES)
def test_truncated_images_are_refused(scale):
  data = encoded(photo(300, 400))
  for broken in (data[: len(data) // 2], b'', b'no image', b'\xff\xd8\xff'):
    with pytest.raises(UndecodableError):
      made(broken, 0, decode_scale=scale)
  with pytest.raises(UndecodableError, match='max_megapixels=1'):
    made(encoded(np.zeros((1001, 1000, 3), np.uint8)), 0, decode_scale=scale, max_megapixels=1)


@pytest.mark.parametrize('scale', augment.DECODE_SCALES)
def test_images_of_16_bits_are_shown_complete(scale):
  import cv2

  seen: list[tuple[int, ...]] = []
  see = lambda image: seen.append(image.shape)
  levels = np.random.default_rng(0).integers(0, 2**16, (90, 80, 3), dtype=np.uint16)
  made(cv2.imencode('.png', levels)[1].tobytes(), 0, see=see, decode_scale=scale)
  assert seen == [(90, 80, 3)]
  for kind in ('PNG', 'JPEG'):
    made(encoded(photo(90, 80), kind), 0, see=see, decode_scale=scale)
  assert len(seen) == 1


def test_another_scale_is_refused():
  with pytest.raises(UserError, match=r"data\.decode_scale must be one of none, auto, not 'half'"):
    configs.data(decode_scale='half')
