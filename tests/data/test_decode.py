"""Decoding against TensorFlow's and Pillow's decoders."""

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mixer_jax.data.decode import UndecodableError, decode, decode_as_pillow
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


@pytest.mark.parametrize('decoder', [decode, decode_as_pillow])
def test_too_many_pixels_are_rejected(decoder):
  chunk = lambda kind, data: (
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  )
  header = struct.pack('>IIBBBBB', 20_000, 20_000, 8, 0, 0, 0, 0)
  png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(9)))
  with pytest.raises(UndecodableError) as error:
    decoder(png + chunk(b'IEND', b''))
  assert '\n' not in str(error.value)


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
