"""Decode images to uint8 RGB arrays, with the same levels as TensorFlow's decoders."""

import io

import cv2
import numpy as np
import simplejpeg
from PIL import Image

from mixer_jax.data import MAX_PIXELS
from mixer_jax.errors import one_line

# The pipeline has one image per thread; OpenCV's own pool would compete with it.
cv2.setNumThreads(0)


class UndecodableError(Exception):
  """The bytes of a record are not a readable image."""


def decode(data: bytes) -> np.ndarray:
  """Decode JPEG, PNG, WebP, … bytes to (H, W, 3) uint8 RGB; grey is repeated, alpha dropped.

  JPEGs are decoded with the fast integer DCT and smooth chroma, TensorFlow's default and therefore
  the input of the authors' networks. The EXIF orientation is ignored, as in TensorFlow.
  """
  if data[:3] == b'\xff\xd8\xff' and (jpeg := _decode_jpeg(data)) is not None:
    return jpeg
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
  except cv2.error as error:
    raise UndecodableError(one_line(error)) from error
  if image is None:
    raise UndecodableError(f'{len(data)} bytes that are not an image')
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def decode_as_pillow(data: bytes) -> Image.Image:
  """Decode with Pillow to mode RGB, as PyTorch users do."""
  try:
    with Image.open(io.BytesIO(data)) as image:
      if image.width * image.height > MAX_PIXELS:
        raise UndecodableError(f'{image.width} × {image.height} pixels exceed the limit')
      return image.convert('RGB')
  except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as error:
    raise UndecodableError(one_line(error)) from error


def _decode_jpeg(data: bytes) -> np.ndarray | None:
  """Return None for a malformed JPEG, which OpenCV may still read."""
  try:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data, strict=False)
    if height * width > MAX_PIXELS:
      raise UndecodableError(f'{width} × {height} pixels exceed the limit')
    if colours in ('CMYK', 'YCCK'):
      return _from_cmyk(_decoded(data, 'CMYK'), inverted=_is_adobe(data))
    return _decoded(data, 'RGB')
  except (ValueError, KeyError):  # KeyError: a chroma subsampling that simplejpeg does not know
    return None


def _decoded(data: bytes, colours: str) -> np.ndarray:
  try:
    return simplejpeg.decode_jpeg(data, colours, fastdct=True)
  except ValueError as error:
    # Extra bytes are accepted, a truncated image is not.
    if 'remature' in str(error):
      raise UndecodableError(str(error)) from error
    return simplejpeg.decode_jpeg(data, colours, fastdct=True, strict=False)


def _from_cmyk(cmyk: np.ndarray, *, inverted: bool) -> np.ndarray:
  """Convert as TensorFlow does, truncated to integer levels."""
  ink = cmyk.astype(np.uint32)
  if not inverted:
    ink = 255 - ink
  return (ink[..., :3] * ink[..., 3:] // 255).astype(np.uint8)


def _is_adobe(data: bytes) -> bool:
  """Return True if the JPEG has Adobe's marker: its CMYK is stored inverted."""
  at = 2
  while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
    if data[at + 1] == 0xEE and data[at + 4 : at + 9] == b'Adobe':
      return True
    at += 2 + int.from_bytes(data[at + 2 : at + 4], 'big')
  return False
