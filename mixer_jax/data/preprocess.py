"""Encoded image -> uint8 RGB array of the model's size.

Arrays stay uint8 up to the device, which maps 0..255 to [-1, 1]: a quarter of the
bytes to move, and the rounding between operations that the authors' pipeline has.
"""

import cv2
import numpy as np

from mixer_jax.errors import UserError

# The pipeline runs one image per thread; OpenCV's own pool would only fight with it.
cv2.setNumThreads(0)

EVAL_RESIZES = ('resmall', 'resize')


class UndecodableError(Exception):
  """The bytes of a record are no image that OpenCV can read."""


def decode(data: bytes) -> np.ndarray:
  """JPEG, PNG, WebP, … bytes -> (H, W, 3) uint8 RGB; grey is repeated, alpha dropped.

  The orientation tag of EXIF is ignored, as TensorFlow's decoders do.
  """
  flags = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
  try:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
  except cv2.error as error:
    raise UndecodableError(str(error)) from error
  if image is None:
    raise UndecodableError(f'{len(data)} bytes that are no image')
  return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
  """Area-averaged where both sides shrink, else bilinear. uint8 in, uint8 out."""
  if image.shape[:2] == (height, width):
    return image
  shrinks = height <= image.shape[0] and width <= image.shape[1]
  return cv2.resize(
    image, (width, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
  )


def central_crop(image: np.ndarray, size: int) -> np.ndarray:
  """The middle size × size pixels."""
  top, left = ((side - size) // 2 for side in image.shape[:2])
  return image[top : top + size, left : left + size]


def eval_image(image: np.ndarray, size: int, how: str, crop_fraction: float) -> np.ndarray:
  """The paper's evaluation crops (section 3): size × size pixels.

  Args:
    image: (H, W, 3) uint8.
    size: side of the result.
    how: 'resmall' brings the shorter side to size / crop_fraction (Table 3),
      'resize' both sides (Table 2); then the central crop is taken.
    crop_fraction: .875 is 224 of 256; 1 crops only what is not square.
  """
  target = round(size / crop_fraction)
  height = width = target
  if how == 'resmall':
    short = min(image.shape[:2])
    height, width = (round(side * target / short) for side in image.shape[:2])
  return central_crop(resize(image, height, width), size)


def inception_crop(
  image: np.ndarray, size: int, rng: np.random.Generator, min_area: float
) -> np.ndarray:
  """A random part of the image, resized to size × size (bilinear).

  Its area is a share in [min_area, 1] of the image's, its aspect ratio in [3/4, 4/3]
  (Szegedy et al. 2015; area 5–100 % in the paper's code). Ten draws, then the whole image.
  """
  height, width = image.shape[:2]
  for _ in range(10):
    area = rng.uniform(min_area, 1) * height * width
    ratio = rng.uniform(3 / 4, 4 / 3)
    h, w = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
    if 0 < h <= height and 0 < w <= width:
      top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
      image = image[top : top + h, left : left + w]
      break
  return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def check_eval(how: str, crop_fraction: float) -> None:
  """Raises `UserError` for an evaluation crop that does not exist."""
  if how not in EVAL_RESIZES:
    raise UserError(f'data.eval_resize must be one of {", ".join(EVAL_RESIZES)}, not {how!r}')
  if not 0.05 <= crop_fraction <= 1:
    raise UserError(f'data.eval_crop_fraction must be in [0.05, 1], is {crop_fraction!r}')
