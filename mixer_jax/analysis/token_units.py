"""Weights of token mixing and the stem as ordered pictures (section 3.5).

A unit of a token MLP has a weight for each token: its column of the first kernel is a picture of
the token grid. Units are ordered by spatial frequency, in pairs of opposite sign.
"""

import math

import numpy as np

from mixer_jax import models


def token_units(config: models.ModelConfig, params: dict, block: int) -> np.ndarray:
  """Return the units of a block's token MLP, (tokens_mlp_dim, G, G) with G tokens per side.

  Tokens are in raster order, also in a grown Mixer: there a unit that was not trained further is
  zero outside its part of the image.

  Raises:
    UserError: there is no such block.
  """
  kernel_ST = models.capability(config, 'token_mixing')(config, params, block)
  side = math.isqrt(kernel_ST.shape[0])
  return kernel_ST.T.reshape(-1, side, side)


def stem_patches(config: models.ModelConfig, params: dict) -> np.ndarray:
  """Return the weights of each channel of the stem over a patch, (C, P, P, 3), RGB.

  Raises:
    UserError: the family of the model names no stem.
  """
  return np.moveaxis(models.capability(config, 'stem_kernel')(config, params), -1, 0)


def frequencies(pictures: np.ndarray) -> np.ndarray:
  """Return the power-weighted mean spatial frequency of each picture, cycles per token (or pixel).

  Σ |F(p, q)|²·√(p² + q²) / Σ |F(p, q)|², F the 2-D discrete Fourier transform with p and q in
  [−1/2, 1/2) cycles per token, including the constant part (0, 0); power is summed over colours. 0
  for a constant picture, or an empty one; at most √½, for a checkerboard.

  Args:
    pictures: (N, G, G) or (N, G, G, colours).
  """
  spectrum = np.fft.fft2(pictures.astype(np.float64), axes=(1, 2))
  power = (np.abs(spectrum) ** 2).reshape(*spectrum.shape[:3], -1).sum(-1)
  rows, columns = (np.fft.fftfreq(size) for size in power.shape[1:])
  total = power.sum((1, 2))
  moment = (power * np.hypot(rows[:, None], columns[None, :])).sum((1, 2))
  return np.divide(moment, total, out=np.zeros_like(total), where=total > 0)


def in_opposite_pairs(pictures: np.ndarray, frequency: np.ndarray) -> np.ndarray:
  """Return an order of all pictures in pairs of nearest opposites, (N,) int.

  From the lowest frequency on, each picture not yet in the order is followed by that one of the
  others not yet in it which is nearest to its negative (least Euclidean distance). If N is odd,
  the last has no partner.
  """
  flat = pictures.reshape(len(pictures), -1).astype(np.float64)
  squares = (flat**2).sum(1)
  free = np.ones(len(flat), bool)
  order: list[int] = []
  for first in np.argsort(frequency, kind='stable'):
    if not free[first]:
      continue
    free[first] = False
    order.append(int(first))
    if free.any():
      # |a + b|² without |a|², which is the same for all.
      distance = np.where(free, squares + 2 * (flat @ flat[first]), np.inf)
      second = int(np.argmin(distance))
      free[second] = False
      order.append(second)
  return np.array(order)


def pair_cosines(pictures: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Return the cosine of each pair of an order, (N // 2,): −1 for opposites, 0 for empty ones."""
  flat = pictures.reshape(len(pictures), -1).astype(np.float64)[order]
  first, second = flat[0 : len(flat) // 2 * 2 : 2], flat[1::2]
  norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
  products = (first * second).sum(1)
  return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)


def spread(order: np.ndarray, most: int, group: int = 2) -> np.ndarray:
  """Return at most `most` entries of an order, in complete groups, evenly from end to end."""
  if most >= len(order):
    return order
  groups = -(-len(order) // group)
  count = min(max(most // group, 1), groups)
  chosen = np.unique(np.linspace(0, groups - 1, count).round().astype(int))
  return np.concatenate([order[group * g : group * (g + 1)] for g in chosen])
