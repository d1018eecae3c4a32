"""Decoding and cropping against Pillow and against TensorFlow's own ops."""

import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data import preprocess
from mixer_jax.errors import UserError


def picture(height: int, width: int) -> np.ndarray:
  """A smooth colour picture with some edges."""
  y, x = np.mgrid[:height, :width] / 40
  rgb = np.stack([np.sin(x + y), np.cos(x * y), np.sign(np.sin(3 * x))], -1)
  return np.rint(127.5 * (rgb * 0.9 + 1)).astype(np.uint8)


def encoded(image: np.ndarray, kind: str, *, mode: str = '', **kwargs) -> bytes:
  buffer = io.BytesIO()
  pillow = Image.fromarray(image)
  (pillow.convert(mode) if mode else pillow).save(buffer, kind, **kwargs)
  return buffer.getvalue()


def test_lossless_images_are_decoded_exactly():
  image = picture(37, 51)
  for kind, lossless in (('PNG', False), ('WEBP', True)):
    np.testing.assert_array_equal(preprocess.decode(encoded(image, kind, lossless=lossless)), image)
  grey = preprocess.decode(encoded(image, 'PNG', mode='L'))
  wanted = np.asarray(Image.fromarray(image).convert('L'))
  np.testing.assert_array_equal(grey, np.repeat(wanted[..., None], 3, -1))
  assert preprocess.decode(encoded(image, 'PNG', mode='RGBA')).shape == (37, 51, 3)


def test_jpeg_is_decoded_as_pillow_and_tensorflow_do():
  import tensorflow as tf

  data = encoded(picture(61, 83), 'JPEG', quality=90)
  ours = preprocess.decode(data).astype(int)
  theirs = np.asarray(Image.open(io.BytesIO(data))).astype(int)
  accurate = tf.io.decode_jpeg(data, dct_method='INTEGER_ACCURATE').numpy().astype(int)
  np.testing.assert_array_equal(theirs, accurate)
  assert np.abs(ours - theirs).max() <= 4  # chroma upsampling may differ in its last bits
  assert np.abs(ours - theirs).mean() <= 0.5


def test_the_orientation_tag_is_ignored_as_tensorflow_does():
  exif = Image.Exif()
  exif[0x0112] = 6  # turned by 90 degrees
  data = encoded(picture(30, 50), 'JPEG', exif=exif)
  assert preprocess.decode(data).shape == (30, 50, 3)


@pytest.mark.parametrize('data', [b'', b'no image', b'\x89PNG\r\n\x1a\n' + bytes(20)])
def test_what_is_no_image_is_refused(data):
  with pytest.raises(preprocess.UndecodableError):
    preprocess.decode(data)


@pytest.mark.parametrize('shape', [(300, 400), (500, 375), (257, 600)])
@pytest.mark.parametrize('how', ['resmall', 'resize'])
def test_evaluation_crops_are_those_of_tensorflows_area_resize(shape, how):
  import tensorflow as tf

  image = picture(*shape)
  ours = preprocess.eval_image(image, 224, how, 0.875)
  height, width = (256, 256) if how == 'resize' else (round(s * 256 / min(shape)) for s in shape)
  resized = tf.image.resize(image[None], (height, width), method='area')
  theirs = tf.cast(resized, tf.uint8).numpy()[0]
  top, left = (height - 224) // 2, (width - 224) // 2
  theirs = theirs[top : top + 224, left : left + 224]
  # TensorFlow's cast cuts off what OpenCV rounds: so ours is the same or one level more.
  difference = ours.astype(int) - theirs
  assert ours.shape == (224, 224, 3)
  assert difference.min() >= 0
  assert difference.max() <= 1


def test_enlarging_is_bilinear():
  image = picture(8, 8)
  ours = preprocess.eval_image(image, 16, 'resmall', 1.0)
  theirs = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
  assert np.abs(ours.astype(int) - theirs).max() <= 1


def test_inception_crop_draws_areas_and_shapes_as_promised():
  # Red tells the row, green the column: so the crop can be read off the result.
  y, x = np.mgrid[:200, :250].astype(np.uint8)
  image = np.stack([y, x, 0 * x], -1)
  rng = np.random.default_rng(0)
  areas, ratios = [], []
  for _ in range(400):
    out = preprocess.inception_crop(image, 64, rng, 0.08).astype(float)
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


def test_a_least_area_of_one_keeps_a_square_image_whole():
  image = picture(40, 40)
  out = preprocess.inception_crop(image, 40, np.random.default_rng(0), 1.0)
  np.testing.assert_array_equal(out, image)


@pytest.mark.parametrize(('how', 'fraction'), [('crop', 0.875), ('resize', 0.0), ('resize', 1.5)])
def test_bad_recipes_are_refused(how, fraction):
  with pytest.raises(UserError, match=r'data\.eval_'):
    preprocess.check_eval(how, fraction)
