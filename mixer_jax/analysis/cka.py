"""Centred kernel alignment between layers, streamed over minibatches.

CKA(K, L) = HSIC(K, L) / √(HSIC(K, K)·HSIC(L, L)) (Kornblith et al. 2019), each of the three
terms summed over minibatches with the unbiased estimator of `hsic.py`, then divided (Nguyen,
Raghu, Kornblith 2021).
"""

import collections
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from mixer_jax import models
from mixer_jax.analysis.hsic import MIN_IMAGES, Contributions, Method, contributions
from mixer_jax.analysis.layers import check_layers, check_reduction, reduced
from mixer_jax.data.batch import Batch
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes


class MinibatchCKA:
  """CKA of all pairs from two lists of layers, in one pass over the data.

      cka = MinibatchCKA(len(layers_x), len(layers_y))
      for images in batches:
        cka.update(features_x(images), features_y(images))
      cka.result()

  Memory does not depend on the number of batches. The sums over batches are float64 on the host:
  these few numbers cost nothing there, and float32 would drift over many batches. A batch counts
  in proportion to its images, because the variance of its estimate falls with them.

  A batch's numbers are fetched after the next one has been dispatched, so that the device does not
  wait for the host; an error that they show is raised then, or by `result`.
  """

  def __init__(
    self,
    n_x: int,
    n_y: int,
    *,
    kernel: str = 'linear',
    bandwidth: float | None = None,
    sigma: float | None = None,
    estimator: str = 'unbiased',
    names_x: Sequence[str] | None = None,
    names_y: Sequence[str] | None = None,
  ):
    """Start the sums of `n_x` by `n_y` layers; see `Method`; names are for messages.

    Raises:
      UserError: as `Method`; no layers, or a different number of names.
    """
    if min(n_x, n_y) < 1:
      raise UserError(f'CKA of {n_x} by {n_y} layers: give at least one of each')
    self.method = Method(kernel, bandwidth, sigma, estimator)
    self._names = tuple(
      [f'layer {i} of {side}' for i in range(count)] if names is None else list(names)
      for side, count, names in (('x', n_x, names_x), ('y', n_y, names_y))
    )
    if tuple(map(len, self._names)) != (n_x, n_y):
      raise UserError(f'CKA of {n_x} by {n_y} layers: give as many names_x and names_y')
    self._pending: collections.deque[Contributions] = collections.deque()
    self._images = self._batches = 0
    # Sums over batches of w·HSIC and of w²·(products of two of a batch's HSICs), w: its images.
    self._cross, self._x, self._y = np.zeros((n_x, n_y)), np.zeros((n_x, 1)), np.zeros((1, n_y))
    self._second = collections.defaultdict(lambda: np.zeros((1, 1)))

  def update(
    self,
    features_x: Sequence[jax.Array | np.ndarray],
    features_y: Sequence[jax.Array | np.ndarray] | None = None,
    mask: jax.Array | np.ndarray | None = None,
  ) -> None:
    """Add a batch.

    Args:
      features_x: `n_x` arrays (B, …) of any float dtype, flattened to (B, D); D may differ.
        Arrays on a mesh stay there: each device takes part of the features.
      features_y: `n_y` such arrays of the same images; None, or the same arrays, to compare the
        layers of x with each other.
      mask: (B,) bool; rows where it is False are ignored, exactly as if they were absent.

    Raises:
      UserError: a different number of layers or images, fewer than four images, or features that
        are not finite (possibly raised by the next call: see the class).
    """
    xs = tuple(features_x)
    ys = None if features_y is None else tuple(features_y)
    if ys is not None and len(xs) == len(ys) and all(map(lambda x, y: x is y, xs, ys)):
      ys = None
    expected = tuple(map(len, self._names))
    if (found := (len(xs), len(xs if ys is None else ys))) != expected:
      raise UserError(
        f'features of {found[0]} by {found[1]} layers: this CKA is of {expected[0]} by '
        f'{expected[1]}'
      )
    shapes = [np.shape(array) for array in (*xs, *(ys or ()))]
    named = [*self._names[0], *(self._names[1] if ys is not None else ())]
    sizes = {shape[0] if shape else 0 for shape in shapes}
    if len(sizes) > 1:
      other = next(i for i, shape in enumerate(shapes) if shape[:1] != shapes[0][:1])
      raise UserError(
        f'{named[0]} has shape {shapes[0]} and {named[other]} {shapes[other]}: all need the '
        'same images on the first axis'
      )
    (size,) = sizes
    self._check_images(size, self._batches + len(self._pending))
    if mask is not None and np.shape(mask) != (size,):
      raise UserError(f'a mask of shape {np.shape(mask)} for a batch of {size}: give ({size},)')
    if self.method.estimator == 'feature-corrected':
      for name, shape in zip(named, shapes, strict=True):
        if math.prod(shape[1:]) < 2:
          raise UserError(f"{name} has one feature: 'feature-corrected' needs two or more")
    if mask is None:
      mask = np.ones(size, bool)
    self.add(contributions(self.method, _mesh_of(xs, ys), xs, ys, mask))

  def add(self, batch: Contributions) -> None:
    """Add what a step of `make_cka_step` returned; raises as `update`."""
    shapes = (batch.self_x.shape, batch.self_y.shape)
    if shapes != tuple((len(names),) for names in self._names):
      raise UserError(
        f'a step of {shapes[0][0]} by {shapes[1][0]} layers: this CKA is of '
        f'{len(self._names[0])} by {len(self._names[1])}'
      )
    self._pending.append(batch)
    self._settle(1)

  @property
  def images(self) -> int:
    """Number of images that counted."""
    self._settle()
    return self._images

  @property
  def batches(self) -> int:
    """Number of batches with images that counted."""
    self._settle()
    return self._batches

  def result(self) -> np.ndarray:
    """Return the CKA of every pair, (n_x, n_y) float64.

    NaN where a layer's HSIC with itself is not positive: its features are the same for every
    image, or, with the feature correction, are too few. An estimate may lie outside [0, 1].

    Raises:
      UserError: there was no batch, or one with fewer than four images, or with features that
        are not finite.
    """
    self._settle()
    if not self._batches:
      raise UserError('CKA of no images: update it with a batch first')
    with np.errstate(invalid='ignore', divide='ignore'):
      return self._cross / np.sqrt(self._norms())

  def standard_error(self) -> np.ndarray:
    """Return the standard error of `result` over batches, (n_x, n_y) float64; NaN after one batch.

    Computed by the delta method for a ratio of means, from the covariance of the three terms over
    batches and the ratio's derivatives. It covers the noise of drawing images, not a bias.
    """
    ratio = self.result()
    if self._batches < 2:
      return np.full_like(ratio, np.nan)
    second, x, y = self._second, self._x, self._y
    with np.errstate(invalid='ignore', divide='ignore'):
      slope = 1 / np.sqrt(self._norms())  # ratio / cross, which may be 0
      variance = (
        slope**2 * second['cc']
        + ratio**2 / 4 * (second['xx'] / x**2 + second['yy'] / y**2 + 2 * second['xy'] / (x * y))
        - slope * ratio * (second['cx'] / x + second['cy'] / y)
      )
      # The terms' influences sum to 0 over the batches, so this is the variance about the mean.
      return np.sqrt(np.maximum(variance * self._batches / (self._batches - 1), 0))

  def _norms(self) -> np.ndarray:
    """(n_x, n_y) products of the layers' HSIC with themselves; NaN unless both are positive."""
    return np.where(self._x > 0, self._x, np.nan) * np.where(self._y > 0, self._y, np.nan)

  def _settle(self, leave: int = 0) -> None:
    while len(self._pending) > leave:
      batch = jax.device_get(self._pending.popleft())
      images = int(batch.images)
      if images == 0:  # padding only
        continue
      self._check_images(images, self._batches)
      units = [np.asarray(unit, np.float64) for unit in (batch.unit_x, batch.unit_y)]
      for names, unit in zip(self._names, units, strict=True):
        for name, bad in zip(names, ~np.isfinite(unit), strict=True):
          if bad:
            raise UserError(
              f'features of {name} are not finite, or too large for float32, in batch '
              f'{self._batches}: leave that layer out, or check it for overflow'
            )
      x, y = units[0][:, None], units[1][None, :]
      terms = {
        'c': images * x * y * np.asarray(batch.cross, np.float64),
        'x': images * x**2 * np.asarray(batch.self_x, np.float64)[:, None],
        'y': images * y**2 * np.asarray(batch.self_y, np.float64)[None, :],
      }
      self._cross += terms['c']
      self._x += terms['x']
      self._y += terms['y']
      for a, b in ('cc', 'xx', 'yy', 'xy', 'cx', 'cy'):
        self._second[a + b] = self._second[a + b] + terms[a] * terms[b]
      self._images += images
      self._batches += 1

  def _check_images(self, images: int, batch: int) -> None:
    if images < MIN_IMAGES:
      raise UserError(
        f'batch {batch} has {images} images, the estimator needs {MIN_IMAGES}: take a batch '
        f'size that leaves none over, or {MIN_IMAGES} and more'
      )


CkaStep = Callable[..., Contributions]


def make_cka_step(
  config_x,
  names_x: Sequence[str],
  mesh: Mesh,
  method: Method,
  *,
  config_y=None,
  names_y: Sequence[str] | None = None,
  how: str = 'flatten',
) -> CkaStep:
  """Make the jitted step for one model or two; features exist only inside it.

  Without `config_y` it is `step(params, batch)`, which compares the layers `names_x` with each
  other. With it, `step(params_x, batch, params_y)` compares them with the layers `names_y` of the
  second model, on the same images; `step(params_x, batch_x, params_y, batch_y)` if the two
  models take images of different sizes. Batches are those of `data.pipeline.eval_batches`, on the
  mesh; masked rows are ignored. Its result is for `MinibatchCKA.add`, and replicated.

  Args:
    names_x, names_y: names in `models.features`, from `choose`.
    how: see `reduced`.

  Raises:
    UserError: no name, or one that the model does not have.
  """
  if (config_y is None) != (names_y is None):
    raise UserError('give both config_y and names_y, for two models, or neither')
  check_reduction(how)
  check_layers(config_x, names_x)
  other_names = names_y or ()
  if config_y is not None:
    check_layers(config_y, other_names)

  def one(params, batch):
    xs = chosen_features(config_x, names_x, how, params, batch)
    return contributions(method, mesh, xs, None, batch['mask'])

  def two(params_x, batch_x, params_y, batch_y=None):
    batch_y = batch_x if batch_y is None else batch_y
    xs = chosen_features(config_x, names_x, how, params_x, batch_x)
    ys = chosen_features(config_y, other_names, how, params_y, batch_y)
    return contributions(method, mesh, xs, ys, batch_x['mask'] & batch_y['mask'])

  return jax.jit(one if config_y is None else two, out_shardings=meshes.replicated(mesh))


def chosen_features(config, names: Sequence[str], how: str, params, batch) -> tuple:
  """Return reduced features of the layers `names` for a batch; for use under jit."""
  features = models.features(config, params, models.as_input(config, batch['image']))
  return tuple(reduced(config, {name: features[name] for name in names}, how).values())


def paired(batches_x: Iterable[Batch], batches_y: Iterable[Batch]) -> Iterator[tuple[Batch, Batch]]:
  """Yield pairs of batches from two pipelines that read the same images, each in its own way.

  Raises:
    UserError: one ends before the other, or the positions of a pair's images in the split differ.
  """
  for number, (x, y) in enumerate(itertools.zip_longest(batches_x, batches_y)):
    if x is None or y is None:
      raise UserError(
        f'the {"first" if x is None else "second"} data set ends after {number} batches, before '
        'the other: CKA compares two models on the same images'
      )
    if x['index'].shape != y['index'].shape or (x['index'] != y['index']).any():
      raise UserError(
        f'batch {number} holds other images on one side than on the other: CKA compares two '
        'models on the same images, in the same order and batches'
      )
    yield x, y


def _mesh_of(xs: tuple, ys: tuple | None) -> Mesh | None:
  """Return the mesh of the features, if one of them is on a mesh."""
  for array in (*xs, *(ys or ())):
    if isinstance(array, jax.Array) and isinstance(array.sharding, NamedSharding):
      mesh = array.sharding.mesh
      return mesh if isinstance(mesh, Mesh) and mesh.size > 1 else None
  return None
