"""Linear probes: accuracy of a linear classifier on the features after every block.

Multinomial logistic regression on frozen features, averaged over the tokens of an image in float32
and standardised; all layers of one width at once and all images in every step, on the devices of a
mesh. A class token is one of the tokens: `pre_logits` has it alone. The
objective is convex: mean cross-entropy + l2/2·|kernel|², with a free bias. It equals that of
scikit-learn's `LogisticRegression` with C = 1 / (examples · l2).
"""

import dataclasses
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from mixer_jax.data import pipeline
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.evaluation.batches import Progress, read
from mixer_jax.evaluation.features import (
  HIGHEST,
  Features,
  count,
  feature_shapes,
  gather,
  make_feature_step,
  put,
  whiten,
)
from mixer_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
  """Settings of the logistic regression.

  Attributes:
    l2: weight of half the squared kernel, added to the mean loss.
    iterations: maximum number of L-BFGS iterations; a layer that no longer improves stops earlier.
  """

  l2: float
  iterations: int

  def __post_init__(self):
    # Without it, features that separate the training images have no solution.
    if isinstance(self.l2, bool) or not isinstance(self.l2, int | float) or not 0 < self.l2 < 1e6:
      raise UserError(f'probe l2 must be a number in (0, 1e6), is {self.l2!r}')
    if type(self.iterations) is not int or not 1 <= self.iterations < 2**31:
      raise UserError(f'probe iterations must be a positive whole number, is {self.iterations!r}')


DEFAULTS = ProbeConfig(l2=1e-3, iterations=500)


class Probes(NamedTuple):
  """Classifiers of L layers."""

  mean: jax.Array
  """(L, C)"""
  deviation: jax.Array
  """(L, C); 1 for constant features."""
  kernel: jax.Array
  """(L, C, N), for standardised features."""
  bias: jax.Array
  """(L, N)"""
  objective: jax.Array
  """(L,): value of what was minimised, nats."""
  gradient: jax.Array
  """(L,): norm of its gradient; 0 at the minimum."""


@dataclasses.dataclass(frozen=True)
class LayerProbe:
  """Result of one layer's probe."""

  layer: str
  """Name in `models.features`."""
  top1: float
  """Percent of the test images."""
  train_top1: float
  objective: float
  """Training loss with its L2 term, nats."""
  gradient: float
  """Norm of the gradient at the end: distance from the minimum."""


def block_layers(config) -> list[str]:
  """Return the names of every block's output, in order of depth, and `pre_logits`."""
  blocks = [name for name in feature_shapes(config) if re.fullmatch(r'block_\d+', name)]
  return [*blocks, 'pre_logits']


def linear_probe(
  config,
  settings: ProbeConfig,
  params: dict,
  train: Source,
  test: Source,
  data: DataConfig,
  mesh,
  *,
  batch_size: int,
  process: pipeline.Process | None = None,
  layers: Sequence[str] | None = None,
  progress: Progress | None = None,
) -> list[LayerProbe]:
  """Fit a probe for each of `layers` (default: all blocks and `pre_logits`) on `train`.

  Each split is read once. The features of all layers are kept, layers · examples · C · 4 bytes,
  on the host of each process and once more divided over the devices: of ImageNet use a part.

  Args:
    params: on the mesh.
    data: how images are read, as for `eval_batches`.
    batch_size: images per step while features are computed, over all processes, at most.
    progress: shows how far each split is read.

  Raises:
    UserError: the splits have different classes, a layer is not in the model, or no image decodes.
  """
  names = block_layers(config) if layers is None else list(layers)
  if not names:
    raise UserError("probe: no layers: name some, as in 'block_0'")
  if train.classes != test.classes:
    raise UserError(
      f'probe: {train.name} has {len(train.classes)} classes and {test.name} '
      f'{len(test.classes)}, or others: take two splits of one data set'
    )
  meshes.check_batch(mesh, batch_size)
  step = make_feature_step(config, mesh, names)

  def features_of(source) -> Features:
    batches = read(
      source, data, config.image_size, mesh,
      batch_size=batch_size, process=process, progress=progress,
    )  # fmt: skip
    features = gather(step, params, batches, mesh, size=len(source))
    if not features.mask.any():
      raise UserError(f'probe: none of the {len(source)} images of {source.name} decodes')
    return features

  of_train, of_test = features_of(train), features_of(test)
  found = {}
  for same in _by_width(of_train, names):  # the stages of a ResNet differ in width
    stacked = lambda of, same=same: np.stack([of.layers[name] for name in same])
    rows_train, rows_test = ((stacked(of), of.labels, of.mask) for of in (of_train, of_test))
    probes = fit(settings, *rows_train, mesh, num_classes=len(train.classes))
    train_top1, test_top1 = (accuracy(probes, *rows, mesh) for rows in (rows_train, rows_test))
    objective, gradient = jax.device_get((probes.objective, probes.gradient))
    for i, name in enumerate(same):
      figures = map(float, (test_top1[i], train_top1[i], objective[i], gradient[i]))
      found[name] = LayerProbe(name, *figures)
  return [found[name] for name in names]


def _by_width(features: Features, names: Sequence[str]) -> list[list[str]]:
  """Group layers by the number of their features."""
  groups: dict[int, list[str]] = {}
  for name in names:
    groups.setdefault(features.layers[name].shape[1], []).append(name)
  return list(groups.values())


def fit(
  settings: ProbeConfig,
  x_LnC: np.ndarray,
  label_n: np.ndarray,
  mask_n: np.ndarray,
  mesh,
  *,
  num_classes: int,
) -> Probes:
  """Fit probes of L layers' features of the same images, all at once; replicated on the mesh.

  Args:
    x_LnC, label_n, mask_n: host arrays, the same in every process: features, int labels, and
      False for rows to ignore.
  """
  run, _ = _programs(mesh)
  placed = _place(mesh, x_LnC, label_n, mask_n)
  return run(num_classes, *placed, np.float32(settings.l2), np.int32(settings.iterations))


def accuracy(probes: Probes, x_LnC, label_n, mask_n, mesh) -> np.ndarray:
  """Return the percentage of unmasked rows that is right, per layer: (L,)."""
  _, run = _programs(mesh)
  hits = jax.device_get(run(probes, *_place(mesh, x_LnC, label_n, mask_n)))
  return 100 * hits / max(int(mask_n.sum()), 1)


@functools.lru_cache(maxsize=8)
def _programs(mesh):
  """Jitted once per mesh, so that a second fit of the same shape does not compile."""
  everywhere = meshes.replicated(mesh)
  return (
    jax.jit(_fit, static_argnums=0, out_shardings=everywhere),
    jax.jit(_hits, out_shardings=everywhere),
  )


def _hits(probes, x_LnC, label_n, mask_n):
  x_LnC = (x_LnC - probes.mean[:, None]) / probes.deviation[:, None]
  logits_LnN = jax.vmap(_logits)((probes.kernel, probes.bias), x_LnC)
  return jnp.sum((jnp.argmax(logits_LnN, axis=-1) == label_n) & mask_n, axis=1)


def _logits(weights, x_nC):
  kernel_CN, bias_N = weights
  return jnp.matmul(x_nC, kernel_CN, precision=HIGHEST) + bias_N


def _fit(num_classes: int, x_LnC, label_n, mask_n, l2, iterations) -> Probes:
  n = count(mask_n)

  def one(x_nC):
    white = whiten(x_nC, mask_n, lambda deviation: jnp.where(deviation > 0, deviation, 1))
    x_nC = white.x_nC

    def objective(weights):
      losses = optax.softmax_cross_entropy_with_integer_labels(_logits(weights, x_nC), label_n)
      return jnp.sum(jnp.where(mask_n, losses, 0)) / n + l2 / 2 * jnp.sum(weights[0] ** 2)

    optimizer = optax.lbfgs()
    start = (jnp.zeros((x_nC.shape[1], num_classes)), jnp.zeros(num_classes))
    value_and_grad = optax.value_and_grad_from_state(objective)

    def continues(carry):
      iteration, moved, *_ = carry
      return (iteration < iterations) & moved

    def advance(carry):
      iteration, _, weights, state = carry
      value, grad = value_and_grad(weights, state=state)
      updates, new_state = optimizer.update(
        grad, state, weights, value=value, grad=grad, value_fn=objective
      )
      new = optax.apply_updates(weights, updates)
      # At the minimum the line search sees only float32's noise: a step that is not better, or not
      # a number, is rejected and ends the loop, which would try the same step again forever.
      better = optax.tree.get(new_state, 'value') < value
      keep = lambda a, b: jnp.where(better, a, b)
      return iteration + 1, better, *jax.tree.map(keep, (new, new_state), (weights, state))

    carry = (jnp.zeros((), int), jnp.ones((), bool), start, optimizer.init(start))
    *_, weights, _ = jax.lax.while_loop(continues, advance, carry)
    value, grad = jax.value_and_grad(objective)(weights)
    norm = optax.tree.norm(grad)
    return Probes(white.mean_C, white.scale_C, *weights, value, norm)

  return jax.vmap(one)(x_LnC)


def _place(mesh, x_LnC, label_n, mask_n) -> tuple[jax.Array, ...]:
  """Put host arrays on the mesh, images divided over it and padded so that all get as many."""
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  more = -len(label_n) % ways
  rows = meshes.batch_sharding(mesh).spec

  def place(array, axis):
    padding = [(0, more if i == axis else 0) for i in range(array.ndim)]
    array = np.pad(array, padding) if more else array
    return put(array, NamedSharding(mesh, P(*(None,) * axis, *rows)))

  return place(x_LnC, 1), place(label_n, 0), place(mask_n, 0)
