"""Decode images to uint8 RGB arrays, with the same levels as TensorFlow's decoders."""

import contextlib
import functools
import io
import itertools
import logging
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mixer_jax.errors import one_line

# The pipeline has one image per thread; OpenCV's own pool would compete with it.
cv2.setNumThreads(0)

# Pillow's remarks do not name the file; whoever reads it reports an image that does not decode.
warnings.filterwarnings('ignore', module=r'PIL\b')
logging.getLogger('PIL').setLevel(logging.CRITICAL)

MAX_MEGAPIXELS = 178
"""Larger images are never decoded: from 179 million pixels on, Pillow refuses them."""

_FORMATS = ('JPEG', 'PNG', 'WEBP', 'GIF', 'BMP', 'TIFF', 'AVIF', 'JPEG2000', 'PPM')
"""Formats that are read. Pillow has more, one of which runs a program of the system."""

_JPEG, _PNG = b'\xff\xd8\xff', b'\x89PNG\r\n\x1a\n'
_BAND = 2**22  # pixels that are converted at once


class UndecodableError(Exception):
  """The bytes of a record are not a readable image."""


def decode(data: bytes, reduction: int = 1) -> np.ndarray:
  """Decode an image to (H, W, 3) uint8 RGB.

  Grey is repeated, alpha dropped; of 16 bits the upper 8 are used; of an animation the first frame.
  JPEGs are decoded with the fast integer DCT and smooth chroma, TensorFlow's default and therefore
  the input of the authors' networks. The EXIF orientation is ignored, as in TensorFlow.

  Args:
    reduction: 1, 2, 4 or 8: a JPEG is decoded at this fraction of its sides, rounded up, where a
      pixel is about the mean of those that it replaces. Other formats, and malformed JPEGs, are
      decoded at their full size.

  Raises:
    UndecodableError: `data` is not an image, or larger than `MAX_MEGAPIXELS`. For images from
      strangers, `limits.admitted` has more checks.
  """
  if is_jpeg(data) and (jpeg := _decode_jpeg(data, reduction)) is not None:
    return jpeg
  if is_webp(data) and (webp := _decode_webp(data)) is not None:
    return webp
  with opened(data) as image:  # not OpenCV: its libpng prints errors without the name of a file
    return _levels(image)


def decode_as_pillow(data: bytes) -> Image.Image:
  """Decode with Pillow to mode RGB, as PyTorch users do; 16 bits as in `decode`.

  Raises:
    UndecodableError: as `decode`.
  """
  if is_webp(data) and (webp := _decode_webp(data)) is not None:
    return Image.fromarray(webp)  # the same levels
  with opened(data) as image:
    image.load()
    return image if image.mode == 'RGB' else _to_rgb(image)


@contextlib.contextmanager
def opened(data: bytes) -> Iterator[Image.Image]:
  """Provide the image as Pillow opens it: its header is read, its levels are not.

  Raises:
    UndecodableError: `data` is not an image; also for what Pillow raises in the context.
  """
  try:
    with Image.open(io.BytesIO(data), formats=_formats()) as image:
      yield image
  except (UndecodableError, MemoryError):
    raise
  except Image.UnidentifiedImageError as error:
    raise UndecodableError(f'{len(data)} bytes that are not an image') from error
  except Exception as error:  # the readers of the formats raise many kinds
    raise UndecodableError(one_line(error)) from error


@functools.cache
def _formats() -> tuple[str, ...]:
  """Return those of `_FORMATS` that this Pillow has."""
  Image.init()
  return tuple(name for name in _FORMATS if name in Image.OPEN)


def has_16_bits(data: bytes) -> bool:
  """Return True for an encoded image with 16 bits per level, as far as its header says it."""
  if data[:8] == _PNG:
    return data[24:25] == b'\x10'
  if data[:4] not in (b'II*\0', b'MM\0*', b'\0\0\0\x0c'):  # TIFF, JPEG 2000
    return False
  with opened(data) as image:
    return image.mode.startswith('I;16') or ';16' in str(getattr(image, 'tile', ''))


def _levels(image: Image.Image) -> np.ndarray:
  """Convert band by band: at once, a large image would be in memory three times."""
  image.load()
  if image.width * image.height <= _BAND:
    return np.array(image if image.mode == 'RGB' else _to_rgb(image))
  levels = np.empty((image.height, image.width, 3), np.uint8)
  for rows in _bands(image.height, image.width):
    band = image.crop((0, rows.start, image.width, rows.stop))
    levels[rows] = np.asarray(band if band.mode == 'RGB' else _to_rgb(band))
  return levels


def _to_rgb(image: Image.Image) -> Image.Image:
  """Convert to mode RGB; Pillow alone would clip 16 bits to 255."""
  if image.mode.startswith('I;16'):
    image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
  elif image.mode in ('I', 'F'):
    raise UndecodableError('levels of 32 bits: save it with 8 or 16 bits per level')
  return image.convert('RGB')


def _decode_jpeg(data: bytes, reduction: int) -> np.ndarray | None:
  """Return None for a malformed JPEG, which Pillow may still read."""
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    if height * width > MAX_MEGAPIXELS * 10**6:
      raise UndecodableError(f'{width} × {height} pixels, more than {MAX_MEGAPIXELS} million')
    # The decoder takes the smallest of its scales that has these sizes; 0: the full one.
    least = (-(-height // reduction), -(-width // reduction)) if reduction > 1 else (0, 0)
    if colours in ('CMYK', 'YCCK'):
      return _from_cmyk(_decoded(data, 'CMYK', least), inverted=_is_adobe(data))
    return _decoded(data, 'RGB', least)
  except (ValueError, KeyError):  # KeyError: a chroma subsampling that simplejpeg does not know
    return None


def _decoded(data: bytes, colours: str, least: tuple[int, int]) -> np.ndarray:
  decoded = functools.partial(
    simplejpeg.decode_jpeg, data, colours, fastdct=True, min_height=least[0], min_width=least[1]
  )
  try:
    return decoded()
  except ValueError as error:
    # Extra bytes are accepted, a truncated image is not.
    if 'remature' in str(error):
      raise UndecodableError(str(error)) from error
    return decoded(strict=False)


def is_jpeg(data: bytes) -> bool:
  """Return True for the beginning of a JPEG."""
  return data[:3] == _JPEG


def is_webp(data: bytes) -> bool:
  """Return True for the header of a WebP; OpenCV would print a message about a shorter one."""
  return data[:4] == b'RIFF' and data[8:12] == b'WEBP' and len(data) >= 32


def _decode_webp(data: bytes) -> np.ndarray | None:
  """Decode with OpenCV, twice as fast as with Pillow; None if it is malformed or an animation."""
  if data[12:16] == b'VP8X' and data[20] & 2:
    return None
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
  except cv2.error:
    return None
  return None if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB, dst=image)


def _from_cmyk(cmyk: np.ndarray, *, inverted: bool) -> np.ndarray:
  """Convert as TensorFlow does, truncated to integer levels."""
  levels = np.empty((*cmyk.shape[:2], 3), np.uint8)
  for band in _bands(cmyk.shape[0], cmyk.shape[1]):
    ink = cmyk[band].astype(np.uint16)  # products are below 2^16
    if not inverted:
      ink = 255 - ink
    levels[band] = ink[..., :3] * ink[..., 3:] // 255
  return levels


def _bands(height: int, width: int) -> Iterator[slice]:
  """Yield the rows of an image in parts of `_BAND` pixels."""
  rows = max(_BAND // width, 1)
  return (slice(top, min(top + rows, height)) for top in range(0, height, rows))


def _is_adobe(data: bytes) -> bool:
  """Return True if the JPEG has Adobe's marker: its CMYK is stored inverted."""
  header = itertools.takewhile(lambda segment: segment[0] != 0xDA, jpeg_segments(data))
  return any(marker == 0xEE and data[at + 4 : at + 9] == b'Adobe' for marker, at in header)


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int]]:
  """Yield (marker, position) of the segments of a JPEG up to its end."""
  at = 2
  while 0 <= (at := data.find(b'\xff', at)) < len(data) - 3:
    marker = data[at + 1]
    if marker == 0xD9:
      return
    if marker == 0xFF:  # padding
      at += 1
    elif marker <= 0x01 or 0xD0 <= marker <= 0xD8:  # a level, or a marker without data
      at += 2
    else:
      yield marker, at
      at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
