"""What token mixing and the stem have learned, as pictures in an order (section 3.5).

A unit of a token MLP weighs all tokens: its column of the first kernel is a picture of the token
grid. Units are ordered by spatial frequency, and stand in pairs of opposite sign.
"""

import math

import numpy as np

from mixer_jax import models


def token_units(config: models.ModelConfig, params: dict, block: int) -> np.ndarray:
  """The units of a block's token MLP, (tokens_mlp_dim, G, G) with G tokens a side.

  Tokens are in raster order, in a grown Mixer too: there a unit that is as it grew is zero
  outside its part of the image.

  Raises:
    UserError: there is no such block.
  """
  kernel_ST = models.capability(config, 'token_mixing')(config, params, block)
  side = math.isqrt(kernel_ST.shape[0])
  return kernel_ST.T.reshape(-1, side, side)


def stem_patches(params: dict) -> np.ndarray:
  """What each channel of the stem weighs of a patch, (C, P, P, 3), RGB."""
  return np.moveaxis(np.asarray(params['stem']['kernel']), -1, 0)


def frequencies(pictures: np.ndarray) -> np.ndarray:
  """Mean spatial frequency of each picture, weighted by power, in cycles a token (or pixel).

  Σ |F(p, q)|²·√(p² + q²) / Σ |F(p, q)|², F the 2-D discrete Fourier transform with p and q in
  [−1/2, 1/2) cycles a token, the constant part (0, 0) among them; of several colours, their
  sum. 0 is a constant picture, or an empty one; √½ is the most, a checkerboard.

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
  """An order of all pictures in which they stand in pairs, (N,) int.

  From the lowest frequency on, each picture that has no place yet is followed by the one, of
  those that have none, that is nearest to its negative (least Euclidean distance). Where N is
  odd, the last stands alone.
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
      # |a + b|², but for |a|², which all share.
      distance = np.where(free, squares + 2 * (flat @ flat[first]), np.inf)
      second = int(np.argmin(distance))
      free[second] = False
      order.append(second)
  return np.array(order)


def pair_cosines(pictures: np.ndarray, order: np.ndarray) -> np.ndarray:
  """Cosine of the two of each pair of an order, (N // 2,): −1 for exact opposites, 0 for empty."""
  flat = pictures.reshape(len(pictures), -1).astype(np.float64)[order]
  first, second = flat[0 : len(flat) // 2 * 2 : 2], flat[1::2]
  norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
  products = (first * second).sum(1)
  return np.divide(products, norms, out=np.zeros_like(norms), where=norms > 0)


def spread(order: np.ndarray, most: int, together: int = 2) -> np.ndarray:
  """At most `most` of an order, in whole groups of `together`, evenly from end to end."""
  if most >= len(order):
    return order
  groups = -(-len(order) // together)
  count = min(max(most // together, 1), groups)
  chosen = np.unique(np.linspace(0, groups - 1, count).round().astype(int))
  return np.concatenate([order[together * g : together * (g + 1)] for g in chosen])
