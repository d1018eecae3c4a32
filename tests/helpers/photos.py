"""Encoded photographs in many formats, made from the two in scikit-learn."""

import io

import numpy as np
from PIL import Image
from sklearn.datasets import load_sample_images

SIZES = ((427, 640), (375, 500), (333, 501), (500, 257), (199, 301), (64, 48), (256, 256))


def photo(height: int, width: int, number: int = 0) -> np.ndarray:
  """Return a photograph, (height, width, 3) uint8."""
  images = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  return np.asarray(Image.fromarray(images[number]).resize((width, height)))


def encoded(image: np.ndarray, kind: str = 'JPEG', *, mode: str = '', **kwargs) -> bytes:
  """Encode an image, after conversion to a Pillow mode."""
  buffer = io.BytesIO()
  pillow = Image.fromarray(image)
  (pillow.convert(mode) if mode else pillow).save(buffer, kind, **kwargs)
  return buffer.getvalue()


def jpegs() -> dict[str, bytes]:
  """Return JPEGs of odd sizes, all chroma subsamplings, progressive, grey, CMYK, EXIF-rotated."""
  turned = Image.Exif()
  turned[0x0112] = 6  # by 90 degrees
  made = {}
  for i, (height, width) in enumerate(SIZES):
    image, name = photo(height, width, i % 2), f'{height}x{width}'
    for subsampling in (0, 1, 2):
      made[f'{name}, chroma {subsampling}'] = encoded(image, quality=75, subsampling=subsampling)
    made[f'{name}, quality 95'] = encoded(image, quality=95)
    made[f'{name}, progressive'] = encoded(image, progressive=True)
    made[f'{name}, grey'] = encoded(image, mode='L', quality=90)
    made[f'{name}, CMYK'] = encoded(image, mode='CMYK', quality=90)
    made[f'{name}, turned'] = encoded(image, exif=turned)
  return made
