"""Evaluation recipes by name: how an image is prepared for a trained network.

The recipe alone changes the accuracy of a published file by up to four points. `resmall-crop` was
used for the paper's Table 3, `resize-crop` for Table 2.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from mixer_jax.data.decode import UndecodableError, decode, decode_as_pillow
from mixer_jax.data.resize import bilinear
from mixer_jax.errors import UserError

if TYPE_CHECKING:
  from scipy import sparse

_MOST_RESIZED = 2**27
"""Pixels after the resize of timm's recipes, which is not limited to the crop."""
_STRIP = 2**20
"""Pixels that are converted to floats at once."""


@dataclasses.dataclass(frozen=True)
class Recipe:
  """Conversion of an encoded image to the input of a network."""

  text: str
  """Description, with `{size}` and `{target}` (size before the crop) as placeholders."""
  prepare: Callable[[bytes, int, int], np.ndarray]
  """(encoded image, size, target) -> (size, size, 3) levels in 0..255."""
  level: type = np.uint8
  """dtype of the levels; np.float32 if they are not rounded."""


def eval_image(data: bytes, size: int, recipe: str, crop_fraction: float) -> np.ndarray:
  """Apply a recipe to an encoded image: (size, size, 3) levels in 0..255, uint8 or float32.

  Args:
    data: the encoded image.
    size: side of the result, pixels.
    recipe: a name in `RECIPES`.
    crop_fraction: share of the resized side in the central crop, for recipes that crop; .875 is
      224 of 256, 1 crops only images that are not square.

  Raises:
    UndecodableError: `data` is not an image. See also `limits.admitted`.
  """
  return RECIPES[recipe].prepare(data, size, _target(size, recipe, crop_fraction))


def describe(recipe: str, size: int, crop_fraction: float, input_range: str) -> str:
  """Describe a recipe in words, with its numbers."""
  target = _target(size, recipe, crop_fraction)
  text = RECIPES[recipe].text.format(size=size, target=target)
  return f'{recipe}: {text}, then to {input_range}'


def check(recipe: str, crop_fraction: float, fields: str = 'data.eval_') -> None:
  """Raise `UserError` for an unknown recipe or an invalid crop fraction.

  Args:
    fields: the names of the two fields without `recipe` and `crop_fraction`.
  """
  if recipe not in RECIPES:
    raise UserError(f'{fields}recipe must be one of {", ".join(RECIPES)}, not {recipe!r}')
  if not 0.05 <= crop_fraction <= 1:
    raise UserError(f'{fields}crop_fraction must be in [0.05, 1], is {crop_fraction!r}')


def _target(size: int, recipe: str, crop_fraction: float) -> int:
  # timm truncates, the authors write the number out; the fractions in use are exact.
  return int(size / crop_fraction) if recipe.startswith('timm') else round(size / crop_fraction)


def _resmall_crop(data: bytes, size: int, target: int) -> np.ndarray:
  image = decode(data)
  factor = np.float32(target) / np.float32(min(image.shape[:2]))
  height, width = (int(np.rint(np.float32(side) * factor)) for side in image.shape[:2])
  return _area(image, height, width, size)


def _resize_crop(data: bytes, size: int, target: int) -> np.ndarray:
  return bilinear(decode(data), target, target, size, np.uint8)


def _vit_jax(data: bytes, size: int, _: int) -> np.ndarray:
  return bilinear(decode(data), size, size, size)


def _timm(data: bytes, size: int, target: int, how: Image.Resampling) -> np.ndarray:
  image = decode_as_pillow(data)
  width, height = image.size
  short = min(width, height)
  width, height = (target * side // short for side in (width, height))
  if width * height > _MOST_RESIZED:
    raise UndecodableError(f'{width} × {height} pixels after resizing exceed the limit')
  left, top = (round((side - size) / 2) for side in (width, height))
  image = image.resize((width, height), how)
  return np.asarray(image.crop((left, top, left + size, top + size)))


def _area(image: np.ndarray, height: int, width: int, size: int) -> np.ndarray:
  """Resize to height × width and return only the central size × size pixels.

  Each is the mean over the area that it covers, truncated to an integer: TensorFlow's `area`.

  The exact mean is so often an integer that rounding errors decide the truncated level. Therefore
  TensorFlow's 32-bit arithmetic is reproduced here, not only its formula; OpenCV's is different.
  """
  if image.shape[:2] == (height, width):
    top, left = (height - size) // 2, (width - size) // 2
    return image[top : top + size, left : left + size]
  scales = (np.float32(image.shape[0]) / np.float32(height)) * (
    np.float32(image.shape[1]) / np.float32(width)
  )
  columns = _cover(image.shape[1], width, size)

  def along(rows: np.ndarray) -> np.ndarray:
    levels = rows.swapaxes(0, 1).reshape(rows.shape[1], -1).astype(np.float32)
    return (columns @ levels).reshape(size, -1, 3)

  # Along rows first, in strips: the floats of a large image would take four times its memory.
  step = max(_STRIP // image.shape[1], 1)
  strips = [along(image[top : top + step]) for top in range(0, image.shape[0], step)]
  levels = np.concatenate(strips, axis=1) if len(strips) > 1 else strips[0]
  levels = levels.swapaxes(0, 1).reshape(image.shape[0], -1)
  levels = (_cover(image.shape[0], height, size) @ levels).reshape(size, size, 3)
  return (levels * (np.float32(1) / scales)).astype(np.uint8)


@functools.lru_cache(maxsize=1024)
def _cover(old: int, new: int, size: int) -> 'sparse.csr_array':
  """Return (size, old): the share of each old pixel that each central new one covers."""
  from scipy import sparse  # half of the time in which a worker process starts

  scale = np.float32(old) / np.float32(new)
  first_new = (new - size) // 2
  places = np.arange(first_new, first_new + size + 1).astype(np.float32) * scale
  starts, ends = places[:-1], places[1:]
  first = np.floor(starts).astype(int)
  most = int(np.ceil(scale)) + 1
  pixels = first[:, None] + np.arange(most)
  overlap = np.minimum(ends[:, None], pixels + 1) - np.maximum(starts[:, None], pixels)
  overlap[(first < starts) & (first + 1 > ends), 0] = scale  # all within one pixel
  row = np.repeat(np.arange(size), most)
  kept = (overlap.ravel() > 0) & (pixels.ravel() < old)
  shares = overlap.astype(np.float32).ravel()[kept]
  return sparse.csr_array((shares, (row[kept], pixels.ravel()[kept])), (size, old))


_AUTHORS = 'JPEG by fast DCT; {resized} ({how}, truncated); central {{size}}'
_PILLOW = 'shorter side to {{target}} (Pillow, {how}, rounded); central {{size}}'

RECIPES = {
  'resmall-crop': Recipe(
    _AUTHORS.format(resized='shorter side to {target}', how='area mean'), _resmall_crop
  ),
  'resize-crop': Recipe(
    _AUTHORS.format(resized='resized to {target}×{target}', how='bilinear'), _resize_crop
  ),
  'vit-jax': Recipe(
    'JPEG by fast DCT; resized to {size}×{size} (bilinear, not rounded)', _vit_jax, np.float32
  ),
  'timm': Recipe(
    _PILLOW.format(how='bicubic'), functools.partial(_timm, how=Image.Resampling.BICUBIC)
  ),
  'timm-bilinear': Recipe(
    _PILLOW.format(how='bilinear'), functools.partial(_timm, how=Image.Resampling.BILINEAR)
  ),
}
"""resmall-crop and resize-crop: the paper's (section 3). vit-jax: that of the repository
google-research/vision_transformer. timm: timm's evaluation transform for these networks;
timm-bilinear: timm's for the networks of miil."""
