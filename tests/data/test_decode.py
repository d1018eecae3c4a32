"""Decoding against TensorFlow's and Pillow's decoders."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.decode import UndecodableError, decode, decode_as_pillow, has_16_bits
from tests.helpers.photos import encoded, jpegs, photo


def test_every_jpeg_is_decoded_to_tensorflows_levels():
  import tensorflow as tf

  for name, data in jpegs().items():
    theirs = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
    np.testing.assert_array_equal(decode(data), theirs, err_msg=name)


def test_cmyk_without_adobes_marker_too():
  import tensorflow as tf

  data = encoded(photo(100, 120), mode='CMYK')
  at = data.index(b'\xff\xee')
  length = int.from_bytes(data[at + 2 : at + 4], 'big')
  bare = data[:at] + data[at + 2 + length :]
  np.testing.assert_array_equal(decode(bare), tf.io.decode_jpeg(bare, channels=3).numpy())
  assert np.abs(decode(bare).astype(int) - decode(data)).mean() > 20  # inverted, or not


def test_extra_bytes_are_accepted_and_truncation_is_not():
  import tensorflow as tf

  data = encoded(photo(100, 120))
  stray = data[:-2] + b'\x12\x34\x56' + data[-2:]
  np.testing.assert_array_equal(decode(stray), tf.io.decode_jpeg(stray, channels=3).numpy())
  early = data.replace(b'\xff\xda', b'\x00\x00\xff\xda', 1)  # OpenCV's turn: another DCT
  theirs = tf.io.decode_jpeg(early, channels=3, dct_method='INTEGER_ACCURATE').numpy()
  np.testing.assert_array_equal(decode(early), theirs)
  with pytest.raises(UndecodableError, match='remature'):
    decode(data[: len(data) // 2])


def test_lossless_images_are_decoded_exactly():
  image = photo(37, 51)
  for kind, lossless in (('PNG', False), ('WEBP', True)):
    np.testing.assert_array_equal(decode(encoded(image, kind, lossless=lossless)), image)
  grey = decode(encoded(image, 'PNG', mode='L'))
  wanted = np.asarray(Image.fromarray(image).convert('L'))
  np.testing.assert_array_equal(grey, np.repeat(wanted[..., None], 3, -1))
  assert decode(encoded(image, 'PNG', mode='P')).shape == (37, 51, 3)
  with_alpha = decode(encoded(image, 'PNG', mode='RGBA'))
  np.testing.assert_array_equal(with_alpha, image)


def test_decoding_with_pillow_is_pillows():
  data = encoded(photo(61, 83), quality=90)
  wanted = np.asarray(Image.open(io.BytesIO(data)).convert('RGB'))
  np.testing.assert_array_equal(np.asarray(decode_as_pillow(data)), wanted)
  assert np.abs(decode(data).astype(int) - wanted).max() > 1  # another DCT


HUGE = encoded(np.zeros((8, 8, 3), np.uint8)).replace(
  b'\x00\x08\x00\x08\x03\x01', b'\xff\xdc\xff\xdc\x03\x01'
)


@pytest.mark.parametrize(
  'data',
  [b'', b'no image', b'\x89PNG\r\n\x1a\n' + bytes(20), b'\xff\xd8\xff', b'\xff\xd8\xff' * 50, HUGE],
)
def test_data_that_is_not_an_image_is_rejected(data):
  for decoder in (decode, decode_as_pillow):
    with pytest.raises(UndecodableError):
      decoder(data)


def of_16_bits(name: str, *channels: int) -> bytes:
  levels = np.random.default_rng(0).integers(0, 2**16, (40, 50, *channels), dtype=np.uint16)
  return cv2.imencode(name, levels)[1].tobytes()


@pytest.mark.parametrize('channels', [(), (3,), (4,)])
def test_of_16_bits_the_upper_8_are_used_as_in_tensorflow(channels):
  import tensorflow as tf

  data = of_16_bits('.png', *channels)
  theirs = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
  for decoder in (decode, decode_as_pillow):
    np.testing.assert_array_equal(np.asarray(decoder(data)), theirs)


def odd_images() -> dict[str, bytes]:
  """Return a photograph in modes and formats in which levels are stored exactly."""
  image, made = photo(40, 50), {}
  for mode in ('1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'CMYK'):
    for kind in ('PNG', 'GIF', 'BMP', 'TIFF', 'WEBP', 'JPEG2000', 'AVIF'):
      try:
        made[f'{mode} {kind}'] = encoded(image, kind, mode=mode, lossless=True)
      except (
        OSError,
        KeyError,
        ValueError,
      ):  # a format without this mode, or a Pillow without this format
        continue
  made['16 bits TIFF'] = of_16_bits('.tif')
  made['16 bits of colour TIFF'] = of_16_bits('.tif', 3)
  made['16 bits JPEG 2000'] = of_16_bits('.jp2')
  frames = [Image.fromarray(np.roll(image, shift, 1)) for shift in (0, 9)]
  for kind in ('GIF', 'WEBP', 'PNG'):
    buffer = io.BytesIO()
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:], lossless=True)
    made[f'animated {kind}'] = buffer.getvalue()
  return made


def test_every_recipe_sees_the_same_picture_in_every_format():
  made = odd_images()
  assert len(made) > 35
  for name, data in made.items():
    levels = decode(data)
    np.testing.assert_array_equal(levels, np.asarray(decode_as_pillow(data)), err_msg=name)
    assert levels.shape == (40, 50, 3), name
    assert 20 < levels.mean() < 235, name


def test_tensorflow_reads_the_same_levels_of_what_it_reads():
  import tensorflow as tf

  for name, data in odd_images().items():
    if name.split()[-1] in ('PNG', 'WEBP') and name != 'animated WEBP':
      theirs = tf.io.decode_image(data, channels=3, expand_animations=False).numpy()
      np.testing.assert_array_equal(decode(data), theirs, err_msg=name)


def test_levels_of_32_bits_are_refused():
  for kind in (np.float32, np.int32):
    data = encoded(np.ones((9, 9), kind), 'TIFF')
    for decoder in (decode, decode_as_pillow):
      with pytest.raises(UndecodableError, match='levels of 32 bits'):
        decoder(data)


def test_16_bits_are_known_from_the_header():
  for data in (of_16_bits('.png'), of_16_bits('.tif', 3), of_16_bits('.jp2')):
    assert has_16_bits(data)
  for kind in ('PNG', 'TIFF', 'JPEG', 'JPEG2000', 'WEBP', 'GIF'):
    assert not has_16_bits(encoded(photo(40, 50), kind))


def test_bands_of_a_large_image_are_joined(monkeypatch):
  from mixer_jax.data import decode as module

  images = [encoded(photo(37, 51), 'PNG', mode=mode) for mode in ('RGB', 'L', 'P')]
  images += [encoded(photo(37, 51), mode='CMYK'), of_16_bits('.png')]
  wanted = [decode(data) for data in images]
  monkeypatch.setattr(module, '_BAND', 51 * 5)
  for data, levels in zip(images, wanted, strict=True):
    np.testing.assert_array_equal(decode(data), levels)


@pytest.mark.parametrize('kind', ['PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF', 'JPEG2000', 'JPEG'])
def test_an_image_that_is_refused_prints_nothing(kind, capfd):
  data = encoded(photo(40, 60), kind)
  refused = 0
  for number in range(60):
    rng = np.random.default_rng(number)
    broken = bytearray(data[: rng.integers(8, len(data))] if number % 3 == 0 else data)
    for _ in range(3):
      broken[rng.integers(4, min(len(broken), 300))] = rng.integers(256)
    for decoder in (decode, decode_as_pillow):
      try:
        decoder(bytes(broken))
      except UndecodableError as error:
        refused += 1
        assert '\n' not in str(error)
  assert refused > 10
  assert capfd.readouterr() == ('', '')


def test_mutated_jpegs_raise_nothing_else():
  data = encoded(photo(40, 60))
  refused = 0
  for number in range(1500):
    rng = np.random.default_rng(number)
    broken = bytearray(data)
    for _ in range(rng.integers(1, 6)):
      broken[rng.integers(3, 700 if rng.integers(2) else len(data))] = rng.integers(256)
    for decoder in (decode, decode_as_pillow):
      try:
        decoder(bytes(broken))
      except UndecodableError:
        refused += 1
  assert refused > 200
