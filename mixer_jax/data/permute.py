"""The paper's permuted inputs (section 3.4): one fixed order of pixels for all images."""

import functools

import numpy as np

from mixer_jax.errors import UserError

INPUTS = ('none', 'patches', 'pixels')


@functools.lru_cache(maxsize=8)
def order_of(inputs: str, size: int, patch: int, seed: int) -> np.ndarray | None:
  """Return the raster index of the pixel that moves to each place of a (size, size) image.

  'patches' shuffles the order of the patches, and the pixels within each patch in the same way;
  'pixels' shuffles all pixels; None for 'none'. Shape (size²,), the same for the same arguments on
  any machine.

  Raises:
    UserError: the image is not a multiple of the patch.
  """
  if inputs == 'none':
    return None
  if inputs == 'pixels':
    return np.random.default_rng(seed).permutation(size**2)
  patches, within = of_patches(size, patch, seed)
  raster = patch_major(size, patch)
  order = np.empty(size**2, np.int64)
  order[raster.reshape(-1)] = raster[patches][:, within].reshape(-1)
  return order


def of_patches(size: int, patch: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
  """Return the two permutations of 'patches': (S,) of the patches, (P²,) of pixels in a patch.

  Each has, in raster order, the index of the patch or pixel that moves there.
  """
  if size % patch:
    raise UserError(f'data.permutation_patch {patch} does not divide the image size {size}')
  rng = np.random.default_rng(seed)
  return rng.permutation((size // patch) ** 2), rng.permutation(patch**2)


def patch_major(size: int, patch: int) -> np.ndarray:
  """Return the raster index of each pixel, patch by patch: (S, P²)."""
  grid = size // patch
  raster = np.arange(size**2).reshape(grid, patch, grid, patch)
  return raster.transpose(0, 2, 1, 3).reshape(grid**2, patch**2)


def permuted(image: np.ndarray, order: np.ndarray | None) -> np.ndarray:
  """Return an (H, W, 3) image with its pixels in the order that `order_of` returned."""
  return image if order is None else image.reshape(-1, image.shape[-1])[order].reshape(image.shape)
