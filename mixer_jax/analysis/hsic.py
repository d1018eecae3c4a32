"""HSIC between features of layers on one minibatch: the part of CKA that runs on devices.

The unbiased HSIC_1 of Song et al. (2012). With K̃ the Gram matrix K with a zero diagonal,

  n(n−3)·HSIC_1(K, L) = tr(K̃L̃) + 1ᵀK̃1·1ᵀL̃1/((n−1)(n−2)) − 2/(n−2)·1ᵀK̃L̃1.

U-centring, Kc_ij = K_ij − r_i/(n−2) − r_j/(n−2) + t/((n−1)(n−2)) off the diagonal and 0 on
it (r: row sums of K̃, t: their sum), makes every row sum 0, so that only the trace remains:
n(n−3)·HSIC_1(K, L) = <Kc, Lc>. So all pairs of layers are one product of the stacked Kc with the
stacked Lc, and the features are needed for the Gram matrices only.

Names of shapes: B images in a batch, n of them unmasked, D features per image.
"""

import dataclasses
import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes

MIN_IMAGES = 4
"""HSIC_1 divides by n−3."""

KERNELS = ('linear', 'rbf')
ESTIMATORS = ('unbiased', 'feature-corrected')


@dataclasses.dataclass(frozen=True)
class Method:
  """Kernel and estimator of HSIC. Hashable, so that it can be a static argument of jit.

  Attributes:
    kernel: 'linear', <x, y>, or 'rbf', exp(−|x−y|²/(2σ²)).
    bandwidth: for 'rbf': σ as a share of the median distance between two images of the
      minibatch, for each layer and batch (Kornblith et al. 2019, section 5).
    sigma: for 'rbf', in place of `bandwidth`: σ itself, in the unit of the features.
    estimator: 'unbiased' in the images, or 'feature-corrected', which treats the D features as a
      random sample of more and corrects for that too (Chun, Canatar, Chung, Lee 2025, arXiv
      2502.15104): the mean of the products k_a·k_b of single features' kernels over a ≠ b
      estimates HSIC(K, K) without bias, whereas their mean over all a, b is too large. The
      features of two layers are assumed to be sampled independently: then HSIC(K, L) needs no
      correction. Between layers that share their units (a residual stream at two depths) some of
      the bias remains.

  Raises:
    UserError: an unknown name, an RBF kernel without exactly one width, a width that is
      not positive, or the corrected estimator with a kernel that is no sum over features.
  """

  kernel: str = 'linear'
  bandwidth: float | None = None
  sigma: float | None = None
  estimator: str = 'unbiased'

  def __post_init__(self):
    if self.kernel not in KERNELS:
      raise UserError(f'kernel must be one of {", ".join(KERNELS)}, not {self.kernel!r}')
    if self.estimator not in ESTIMATORS:
      raise UserError(f'estimator must be one of {", ".join(ESTIMATORS)}, not {self.estimator!r}')
    widths = [width for width in (self.bandwidth, self.sigma) if width is not None]
    if len(widths) != (self.kernel == 'rbf'):
      raise UserError(
        f'kernel {self.kernel!r} with bandwidth={self.bandwidth!r} and sigma={self.sigma!r}: '
        "'rbf' takes one of the two, 'linear' none"
      )
    if not all(math.isfinite(width) and width > 0 for width in widths):
      raise UserError(f'the width of the RBF kernel must be positive, not {widths[0]!r}')
    if self.estimator == 'feature-corrected' and self.kernel != 'linear':
      raise UserError("estimator 'feature-corrected' is for the linear kernel: take 'unbiased'")

  def __str__(self) -> str:
    """Such as 'kernel rbf, bandwidth 0.5, estimator unbiased'."""
    fields = dataclasses.asdict(self).items()
    return ', '.join(f'{name} {value}' for name, value in fields if value is not None)


def check_images(size: int, batch_size: int) -> None:
  """Raise `UserError` if a batch of a split of `size` images has too few for the estimator."""
  if size < MIN_IMAGES:
    raise UserError(f'there are {size} images, and the estimator needs {MIN_IMAGES}: take more')
  left = size % batch_size or batch_size
  if left < MIN_IMAGES:
    raise UserError(
      f'{size} images in batches of {batch_size} leave {left} for the last one, and the estimator '
      f'needs {MIN_IMAGES}: set another --config.eval_batch_size'
    )


class Contributions(NamedTuple):
  """Terms of one batch; all float32, replicated.

  The Gram matrix of a layer is divided by its `unit`, so that no product of two exceeds float32's
  range; the sums over batches multiply by it again.
  """

  cross: jax.Array
  """HSIC of every pair, (n_x, n_y)."""
  self_x: jax.Array
  """HSIC of each layer with itself, (n_x,)."""
  self_y: jax.Array
  unit_x: jax.Array
  """(n_x,); NaN for a layer whose features are not finite."""
  unit_y: jax.Array
  images: jax.Array
  """Number of unmasked images of the batch, a scalar."""


class Grams(NamedTuple):
  """The part of HSIC that depends on one model's layers only; all float32."""

  centred: jax.Array
  """U-centred Gram matrices, divided by their `unit`, (layers, B, B)."""
  unit: jax.Array
  """(layers,); see `Contributions`."""
  own: jax.Array
  """n(n−3)·HSIC of each layer with itself, corrected if the method is, (layers,)."""
  images: jax.Array
  """Number of unmasked images of the batch (n), a scalar."""


def grams(method: Method, mesh: Mesh | None, features, mask) -> Grams:
  """Return the Gram matrices of a list of (B, …) features; for use under jit."""
  mask = jnp.asarray(mask, bool)
  if mesh is not None:
    mask = jax.lax.with_sharding_constraint(mask, meshes.replicated(mesh))
  results = [_gram(method, mesh, array, mask) for array in features]
  centred, unit, alone = (jnp.stack(parts) for parts in zip(*results, strict=True))
  own = jnp.sum(jnp.sum(centred**2, axis=2), axis=1)
  if method.estimator == 'feature-corrected':
    own = _without_alone(own, alone, features)
  return Grams(centred, unit, own, jnp.sum(mask, dtype=jnp.float32))


def pairs_of(method: Method, mesh: Mesh | None, x: Grams, y: Grams | None) -> Contributions:
  """Return HSIC of all pairs of layers, on the same images; of `x` with itself if `y` is None."""
  n_pairs = x.images * (x.images - 3)
  other = x if y is None else y
  cross = _inner_products(x.centred, other.centred)
  own_x, own_y = x.own, other.own
  if y is None:
    same = jnp.eye(x.own.size, dtype=bool)
    if method.estimator == 'feature-corrected':
      # A layer and itself share their features: the corrected form is the numerator too.
      cross = jnp.where(same, own_x, cross)
    else:
      own_x = own_y = jnp.diagonal(cross)  # so that CKA with itself is exactly 1
  batch = Contributions(
    cross=cross / n_pairs,
    self_x=own_x / n_pairs,
    self_y=own_y / n_pairs,
    unit_x=x.unit,
    unit_y=other.unit,
    images=x.images,
  )
  if mesh is None:
    return batch
  return jax.lax.with_sharding_constraint(batch, meshes.replicated(mesh))


@functools.partial(jax.jit, static_argnums=(0, 1), inline=True)
def contributions(method: Method, mesh: Mesh | None, xs, ys, mask) -> Contributions:
  """Return HSIC of all pairs for one batch of features; of `xs` alone if `ys` is None."""
  x = grams(method, mesh, xs, mask)
  return pairs_of(method, mesh, x, None if ys is None else grams(method, mesh, ys, mask))


def _without_alone(own, alone, features):
  """Turn HSIC of layers with themselves into the mean over pairs of different features."""
  counts = np.array([math.prod(array.shape[1:]) for array in features], np.float32)
  if counts.min() < 2:
    raise UserError("a layer with one feature: 'feature-corrected' needs two or more, leave it out")
  return (own - alone) * (counts / (counts - 1))


def _inner_products(grams_x, grams_y):
  """(n_x, B, B), (n_y, B, B) -> (n_x, n_y).

  Summed by rows first: one float32 sum over the B² terms would lose two digits at B = 256.
  """
  rows = jnp.einsum('iab,jab->aij', grams_x, grams_y, precision=jax.lax.Precision.HIGHEST)
  return jnp.sum(rows, axis=0)


def _gram(method: Method, mesh: Mesh | None, features, mask):
  """Return the U-centred Gram matrix (B, B) by its unit; the unit; single features' own part."""
  x_BD = jnp.reshape(features, (features.shape[0], -1))
  if mesh is not None:
    # Each device gets all images of a part of the features: centring is then local, and the Gram
    # matrices of the parts add up. With images on different devices, each would need all others.
    # Zeros make the parts equal: they add nothing, and unequal parts would be copied to all.
    x_BD = jnp.pad(x_BD, ((0, 0), (0, -x_BD.shape[1] % mesh.size)))
    for sharding in (meshes.batch_sharding(mesh), NamedSharding(mesh, P(None, mesh.axis_names))):
      x_BD = jax.lax.with_sharding_constraint(x_BD, sharding)
  x_BD = x_BD.astype(jnp.float32)
  mask_B1, n = mask[:, None], jnp.sum(mask, dtype=jnp.float32)
  # Subtract the first image, then the mean: a large offset costs no digits in the Gram matrix, and
  # constant features become exactly 0.
  x_BD = jnp.where(mask_B1, x_BD - x_BD[jnp.argmax(mask)], 0)
  x_BD = jnp.where(mask_B1, x_BD - jnp.sum(x_BD, axis=0) / n, 0)
  # HIGHEST: by default a TPU multiplies in bfloat16.
  gram_BB = jnp.einsum('id,jd->ij', x_BD, x_BD, precision=jax.lax.Precision.HIGHEST)
  if mesh is not None:
    gram_BB = jax.lax.with_sharding_constraint(gram_BB, NamedSharding(mesh, P(mesh.axis_names)))
  size = jnp.trace(gram_BB) / n
  varies = size != 0  # True for NaN
  safe = jnp.where(varies, size, 1)
  gram_BB = gram_BB / safe
  alone = jnp.zeros(())
  if method.estimator == 'feature-corrected':
    alone = _alone(x_BD / jnp.sqrt(safe), n)
  unit = jnp.where(varies, size, 0)
  if method.kernel == 'rbf':
    gram_BB = _rbf(method, gram_BB, safe, mask)
    unit = jnp.where(jnp.isfinite(unit), 1.0, jnp.nan)
  return jnp.where(varies, _u_centred(gram_BB, mask), 0), unit, alone


def _alone(x_BD, n):
  """Σ_a n(n−3)·HSIC_1(k_a, k_a), k_a the kernel of feature a alone.

  Of a centred column with Σx² = s2 and Σx⁴ = s4, HSIC_1's three terms are s2² − s4,
  s2²/((n−1)(n−2)) and −2·s4/(n−2): no B×B matrix per feature is needed.
  """
  square = x_BD**2
  s2, s4 = jnp.sum(square, axis=0), jnp.sum(square**2, axis=0)
  return jnp.sum(s2**2 * (1 + 1 / ((n - 1) * (n - 2))) - s4 * (1 + 2 / (n - 2)))


def _rbf(method: Method, gram_BB, unit, mask):
  """Turn inner products divided by `unit` into the RBF kernel, minus 1 if it is wide.

  U-centring removes the constant again. A wide kernel, near 1 for all pairs, would lose its digits
  with it; a narrow one, near 0, without it.
  """
  norms = jnp.diagonal(gram_BB)
  squared = jnp.maximum(norms[:, None] + norms[None, :] - 2 * gram_BB, 0)
  if method.sigma is not None:
    rate = unit / (2 * method.sigma**2)
  else:
    assert method.bandwidth is not None  # checked by `Method`
    width = method.bandwidth * _median_distance(squared, mask)
    # The median is 0 if most images are equal: the kernel is then 1 for equal images, else 0.
    rate = 1 / jnp.maximum(2 * width**2, jnp.finfo(jnp.float32).tiny)
  # The mean of `squared` is about 2, whatever the features.
  return jnp.where(rate < 0.5, jnp.expm1(-rate * squared), jnp.exp(-rate * squared))


def _median_distance(squared, mask):
  """Median over pairs of unmasked images; counting (i, j) and (j, i) does not change it."""
  ordered = jnp.sort(jnp.where(_pairs(mask), squared, jnp.inf).ravel())
  n = jnp.sum(mask)
  middle = n * (n - 1) // 2
  return (jnp.sqrt(ordered[middle - 1]) + jnp.sqrt(ordered[middle])) / 2


def _pairs(mask):
  """(B, B): True for two different unmasked images."""
  return mask[:, None] & mask[None, :] & ~jnp.eye(mask.size, dtype=bool)


def _u_centred(gram_BB, mask):
  """U-centre, see the module's docstring; masked rows and columns are 0."""
  pairs, n = _pairs(mask), jnp.sum(mask, dtype=jnp.float32)
  rows = jnp.sum(jnp.where(pairs, gram_BB, 0), axis=1)
  total = jnp.sum(rows) / ((n - 1) * (n - 2))
  rows = rows / (n - 2)
  return jnp.where(pairs, gram_BB - rows[:, None] - rows[None, :] + total, 0)
