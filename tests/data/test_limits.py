"""Limits of images: pixels and scans, seen before decoding, and the memory of all threads."""

import concurrent.futures
import struct
import threading
import zlib

import pytest
import simplejpeg

from mixer_jax.data import limits
from mixer_jax.data.decode import UndecodableError, decode, decode_as_pillow, jpeg_segments
from mixer_jax.errors import StorageError
from tests.helpers.photos import encoded, jpegs, photo

KINDS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF', 'JPEG2000', 'PPM')


@pytest.mark.parametrize('kind', KINDS)
def test_the_size_is_read_from_the_header(kind):
  assert limits.size_of(encoded(photo(37, 51), kind)) == (51, 37)


def test_the_size_of_every_kind_of_webp():
  choices: tuple[dict, ...] = ({}, {'lossless': True}, {'exif': b'Exif\0\0x'}, {'mode': 'RGBA'})
  for options in choices:
    assert limits.size_of(encoded(photo(37, 51), 'WEBP', **options)) == (51, 37)


@pytest.mark.parametrize('data', [b'', b'no image', b'\x89PNG\r\n\x1a\n', b'\xff\xd8\xff', b'RIFF'])
def test_what_is_no_image_has_no_size(data):
  with pytest.raises(UndecodableError):
    limits.size_of(data)


def png_of(width: int, height: int) -> bytes:
  """Return a PNG whose header says so."""
  chunk = lambda kind, data: (
    struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
  )
  header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 0)
  png = b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(bytes(9)))
  return png + chunk(b'IEND', b'')


def test_an_image_above_the_limit_is_refused_with_the_field():
  for data in (
    png_of(20_000, 20_000),
    encoded(photo(8, 8)).replace(b'\x00\x08\x00\x08\x03', b'N N \x03'),
  ):
    with pytest.raises(UndecodableError, match=r'pixels, more than config.data.max_megapixels=134'):
      limits.admitted(data, 134)
  data = encoded(photo(1000, 1001))
  with pytest.raises(UndecodableError, match=r'1001 × 1000 pixels, more than .*=1$'):
    limits.admitted(data, 1)
  with limits.admitted(data, 2):
    assert decode(data).shape == (1000, 1001, 3)


@pytest.mark.parametrize('decoder', [decode, decode_as_pillow])
def test_decoders_themselves_refuse_what_pillow_refuses(decoder):
  with pytest.raises(UndecodableError) as error:
    decoder(png_of(20_000, 20_000))
  assert '\n' not in str(error.value)


def of_scans(scans: int, height: int = 512, width: int = 512) -> bytes:
  """Return a progressive grey JPEG of a few bytes per scan, each of which visits all blocks."""
  segment = lambda marker, data: b'\xff' + bytes([marker]) + struct.pack('>H', len(data) + 2) + data
  blocks = height * width // 64
  one_code = bytes([1] + [0] * 15)  # a code of one bit
  jpeg = b'\xff\xd8' + segment(0xDB, b'\0' + bytes([1] * 64))
  jpeg += segment(0xC2, struct.pack('>BHHB', 8, height, width, 1) + bytes([1, 0x11, 0]))
  jpeg += segment(0xC4, b'\x00' + one_code + b'\x00') + segment(0xC4, b'\x10' + one_code + b'\xe0')
  jpeg += segment(0xDA, bytes([1, 1, 0, 0, 0, 0])) + bytes(blocks // 8)
  body = b'\0\x01'  # the end of the band for 2^14 blocks
  return jpeg + (segment(0xDA, bytes([1, 1, 0, 1, 63, 0])) + body) * scans + b'\xff\xd9'


def test_a_jpeg_of_many_scans_is_refused_before_it_is_decoded(monkeypatch):
  monkeypatch.setattr(limits, '_FAST', 0)
  allowed, refused = of_scans(90), of_scans(1000)
  assert simplejpeg.decode_jpeg(allowed, strict=False).shape == (512, 512, 3)  # it is a JPEG
  limits.check(allowed, 134)
  with pytest.raises(UndecodableError, match='a JPEG of more than 100 scans'):
    limits.check(refused, 134)
  # Bytes between segments, which decoders skip, do not hide them.
  with pytest.raises(UndecodableError, match='scans'):
    limits.check(refused[:2] + b'\x12\x34' + refused[2:], 134)
  # After the end of the image there may be anything, such as a film.
  limits.check(allowed + refused, 134)


def test_scans_of_large_files_only_are_counted():
  limits.check(of_scans(200), 134)  # decoded in no time
  with pytest.raises(UndecodableError, match='scans'):
    limits.check(of_scans(3000, 4096, 4096), 134)


def test_scans_of_photographs_are_within_the_limit(monkeypatch):
  monkeypatch.setattr(limits, '_FAST', 0)
  for data in jpegs().values():
    limits.check(data, 134)
    assert sum(marker == 0xDA for marker, _ in jpeg_segments(data)) <= 10


def test_threads_share_the_memory_and_a_large_image_is_alone():
  memory, lock = limits.Memory(100), threading.Lock()
  held, most = 0, 0

  def work(amount: int) -> None:
    nonlocal held, most
    with memory.held(amount):
      with lock:
        held += min(amount, 100)
        most = max(most, held)
        assert held <= 100
      threading.Event().wait(0.002)
      with lock:
        held -= min(amount, 100)

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    list(pool.map(work, [30, 50, 1000, 20, 100, 40] * 5))
  assert (held, memory._free) == (0, 100)
  assert most > 50


def test_large_images_hold_memory_while_they_are_used(monkeypatch):
  memory = limits.Memory(2**40)
  monkeypatch.setattr(limits, '_memory', lambda: memory)
  with limits.admitted(encoded(photo(300, 300)), 134):
    assert memory._free == 2**40
  with limits.admitted(png_of(4096, 2048), 134):
    assert memory._free == 2**40 - 20 * 2**23
  assert memory._free == 2**40


def test_too_little_memory_says_nothing_about_the_image():
  with (
    pytest.raises(StorageError, match=r'not enough memory .* lower config.data.threads'),
    limits.admitted(png_of(4096, 2048), 134),
  ):
    raise MemoryError


def test_available_memory_is_that_of_the_container(tmp_path, monkeypatch):
  (tmp_path / 'limit').write_text('123456789\n')
  (tmp_path / 'none').write_text('max\n')
  names = [str(tmp_path / name) for name in ('limit', 'none', 'missing')]
  monkeypatch.setattr(limits, '_CONTAINER_LIMITS', names)
  assert limits.available_bytes() == 123456789
  monkeypatch.setattr(limits, '_CONTAINER_LIMITS', ())
  assert 2**28 < limits.available_bytes() < 2**50
