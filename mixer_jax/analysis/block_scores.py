"""Importance of each block of a model with removable blocks, measured on images.

block_cka: 1 − CKA of a block's input and output. output_cka: 1 − CKA of `pre_logits` with and
without the block. CKA is linear, with one row per image, by the unbiased minibatch estimator.
cosine: 1 − the cosine between a token before and after the block, averaged over tokens and images.
leave_one_out: percentage points of top-1 lost without the block; the loss decides ties.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NoReturn

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax import models
from mixer_jax.analysis.cka import MinibatchCKA, make_cka_step
from mixer_jax.analysis.hsic import Method
from mixer_jax.analysis.layers import block_stream, layer_names
from mixer_jax.data.batch import Batch
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import BlockModelConfig
from mixer_jax.models.depth import Blocks, with_blocks, without
from mixer_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Images:
  """Images that blocks are scored on."""

  batches: Callable[[], Iterator[Batch]]
  """Begins a pass over this process's batches, those of `data.pipeline.eval_batches`."""
  mesh: jax.sharding.Mesh
  loss: str = 'softmax'
  """Loss that the model was trained with: 'softmax' or 'sigmoid'."""


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Accuracy of a model on all images."""

  top1: float
  """Percent."""
  loss: float
  """Mean loss, nats."""


def order_of_removal(
  measure: str, config: BlockModelConfig, params: dict, images: Images
) -> tuple[list[int], list[float]]:
  """Rank blocks by one of `MEASURES`, the least important first; also return each block's value.

  Args:
    params: on the mesh, of two blocks or more.

  Raises:
    UserError: features are not finite (the message has layer and batch), or constant.
  """
  values, ties = MEASURES[measure](config, params, images)
  for block, value in enumerate(values):
    if not np.isfinite(value):
      raise UserError(
        f'{measure} of block_{block} is not a number: its features may be the same for every '
        'image; leave that score out'
      )
  return np.lexsort((ties, values)).tolist(), values.tolist()


def evaluate(
  config: BlockModelConfig, params: dict, variants: Sequence[Blocks], images: Images
) -> list[Accuracy]:
  """Evaluate variants of a model that keep some of its blocks, in one pass over the images.

  Args:
    params: on the mesh.
    variants: the kept blocks of each.

  Raises:
    UserError: features are not finite (the message has layer and batch), or no image decodes.
  """
  pruned = [with_blocks(config, params, blocks) for blocks in variants]
  steps = {own: classify.make_eval_step(own, images.mesh, loss=images.loss) for own, _ in pruned}
  sums = np.zeros((len(pruned), 3))
  for number, batch in enumerate(images.batches()):
    on_mesh = meshes.put(images.mesh, batch)
    results = jax.device_get([steps[own](kept, on_mesh) for own, kept in pruned])
    more = np.array([[result[k] for k in ('top1', 'loss', 'examples')] for result in results])
    for (own, kept), blocks, loss in zip(pruned, variants, more[:, 1], strict=True):
      if not np.isfinite(loss):
        removed_some = blocks if own != config else ()
        _raise_not_finite(own, kept, on_mesh, images, number, removed_some)
    sums += more
  if not sums[0, 2]:
    raise UserError('no image decodes: there is nothing to evaluate on')
  return [Accuracy(100 * top1 / count, loss / count) for top1, loss, count in sums]


Values = tuple[np.ndarray, np.ndarray]
"""(num_blocks,) each: the scores, and the values that decide ties."""


def _leave_one_out(config: BlockModelConfig, params: dict, images: Images) -> Values:
  every = tuple(range(config.num_blocks))
  variants = [every, *(without(every, [block]) for block in every)]
  complete, *others = evaluate(config, params, variants, images)
  lost = np.array([complete.top1 - other.top1 for other in others])
  return lost, np.array([other.loss for other in others])


def _block_cka(config: BlockModelConfig, params: dict, images: Images) -> Values:
  names = block_stream(config)
  total = MinibatchCKA(len(names), len(names), names_x=names, names_y=names)
  step = make_cka_step(config, names, images.mesh, Method())
  for batch in images.batches():
    total.add(step(params, meshes.put(images.mesh, batch)))
  return _without_ties(1 - np.diagonal(total.result(), offset=1))


def _output_cka(config: BlockModelConfig, params: dict, images: Images) -> Values:
  every, last = tuple(range(config.num_blocks)), ['pre_logits']
  pruned = [with_blocks(config, params, without(every, [block])) for block in every]
  totals = [
    MinibatchCKA(1, 1, names_x=last, names_y=[f'pre_logits without block_{block}'])
    for block in every
  ]
  step = make_cka_step(config, last, images.mesh, Method(), config_y=pruned[0][0], names_y=last)
  for batch in images.batches():
    on_mesh = meshes.put(images.mesh, batch)
    for total, (_, kept) in zip(totals, pruned, strict=True):
      total.add(step(params, on_mesh, kept))
  return _without_ties(1 - np.array([total.result()[0, 0] for total in totals]))


def _cosine(config: BlockModelConfig, params: dict, images: Images) -> Values:
  def distances(params, batch):
    """Return 1 − cosine at each block, summed over the images, and the number of images."""
    features = _features(config, params, batch)
    stream = [features[name].astype(jnp.float32) for name in block_stream(config)]

    def distance(x_BSC, y_BSC):
      norms_BS = jnp.linalg.norm(x_BSC, axis=-1) * jnp.linalg.norm(y_BSC, axis=-1)
      products_BS = jnp.sum(x_BSC * y_BSC, axis=-1)
      cosines_BS = products_BS / jnp.maximum(norms_BS, jnp.finfo(jnp.float32).tiny)
      return jnp.sum(jnp.where(batch['mask'], 1 - cosines_BS.mean(axis=1), 0))

    sums = [distance(x, y) for x, y in itertools.pairwise(stream)]
    return jnp.stack(sums), jnp.sum(batch['mask'])

  step = jax.jit(distances, out_shardings=meshes.replicated(images.mesh))
  total, count = np.zeros(config.num_blocks), 0
  for number, batch in enumerate(images.batches()):
    on_mesh = meshes.put(images.mesh, batch)
    sums, size = jax.device_get(step(params, on_mesh))
    if not np.isfinite(sums).all():
      _raise_not_finite(config, params, on_mesh, images, number)
    total, count = total + sums, count + int(size)
  return _without_ties(total / max(count, 1))


MEASURES: dict[str, Callable[[BlockModelConfig, dict, Images], Values]] = {
  'block_cka': _block_cka,
  'output_cka': _output_cka,
  'cosine': _cosine,
  'leave_one_out': _leave_one_out,
}
"""By name; the block with the lowest value is removed first."""


def _without_ties(values: np.ndarray) -> Values:
  """Leave ties to the order of the blocks."""
  return values, np.zeros_like(values)


def _features(config: BlockModelConfig, params: dict, batch) -> dict[str, jax.Array]:
  return models.features(config, params, models.as_input(config, batch['image']))


def _raise_not_finite(
  config: BlockModelConfig, params: dict, batch, images: Images, number: int, blocks: Blocks = ()
) -> NoReturn:
  """Raise a `UserError` with the name of the first layer whose features are not finite."""

  def finite(params, batch):
    rows = lambda x: jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    features = _features(config, params, batch)
    return {name: jnp.all(rows(x) | ~batch['mask']) for name, x in features.items()}

  is_finite = jax.jit(finite, out_shardings=meshes.replicated(images.mesh))(params, batch)
  broken = [name for name in layer_names(config) if not is_finite[name]]
  of = f' of the model of blocks {",".join(map(str, blocks))}' if blocks else ''
  raise UserError(
    f'features of {broken[0] if broken else "logits"}{of} are not finite, or too large for '
    f'float32, in batch {number}: check that layer for overflow'
  )
