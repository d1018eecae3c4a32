"""How little the blocks of a Mixer do, by what they make of images.

block_cka: 1 − CKA of a block's input and output. output_cka: 1 − CKA of `pre_logits` with and
without the block. CKA is linear, of one row an image, by the unbiased minibatch estimator.
cosine: 1 − the cosine between a token before and behind the block, a mean over tokens and images.
leave_one_out: points of top-1 that are lost without the block; where these are equal, the loss
decides.
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
from mixer_jax.analysis.layers import layer_names
from mixer_jax.data.batch import Batch
from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import MixerConfig
from mixer_jax.models.depth import Blocks, with_blocks, without
from mixer_jax.parallel import mesh as meshes


@dataclasses.dataclass(frozen=True)
class Images:
  """What blocks are scored on."""

  batches: Callable[[], Iterator[Batch]]
  """Begins a pass: this process's batches, as `data.pipeline.eval_batches` gives them."""
  mesh: jax.sharding.Mesh


@dataclasses.dataclass(frozen=True)
class Accuracy:
  """Of a Mixer on all images."""

  top1: float
  """Percent."""
  loss: float
  """Mean softmax cross-entropy, nats."""


def order_of_removal(
  measure: str, config: MixerConfig, params: dict, images: Images
) -> tuple[list[int], list[float]]:
  """Blocks by one of `MEASURES`, the one that does the least first; and each block's value.

  Args:
    params: on the mesh, of two blocks or more.

  Raises:
    UserError: features are not finite, named by layer and batch, or the same for all images.
  """
  values, ties = MEASURES[measure](config, params, images)
  for block, value in enumerate(values):
    if not np.isfinite(value):
      raise UserError(
        f'{measure} of block_{block} is not a number, as where features are the same for every '
        'image: leave that score out'
      )
  return np.lexsort((ties, values)).tolist(), values.tolist()


def evaluate(
  config: MixerConfig, params: dict, variants: Sequence[Blocks], images: Images
) -> list[Accuracy]:
  """Accuracy of each Mixer of some of the blocks, in one pass over the images.

  Args:
    params: on the mesh.
    variants: of each, the blocks that stay.

  Raises:
    UserError: features are not finite, named by layer and batch; no image decodes.
  """
  mixers = [with_blocks(config, params, blocks) for blocks in variants]
  steps = {own: classify.make_eval_step(own, images.mesh) for own, _ in mixers}
  sums = np.zeros((len(mixers), 3))
  for number, batch in enumerate(images.batches()):
    on_mesh = meshes.put(images.mesh, batch)
    results = jax.device_get([steps[own](kept, on_mesh) for own, kept in mixers])
    more = np.array([[result[k] for k in ('top1', 'loss', 'examples')] for result in results])
    for (own, kept), blocks, loss in zip(mixers, variants, more[:, 1], strict=True):
      if not np.isfinite(loss):
        some = blocks if own != config else ()
        _refuse(own, kept, on_mesh, images, number, some)
    sums += more
  if not sums[0, 2]:
    raise UserError('no image decodes: there is nothing to evaluate on')
  return [Accuracy(100 * top1 / count, loss / count) for top1, loss, count in sums]


Values = tuple[np.ndarray, np.ndarray]
"""(num_blocks,) each: the scores, and what decides where they are equal."""


def _leave_one_out(config: MixerConfig, params: dict, images: Images) -> Values:
  every = tuple(range(config.num_blocks))
  variants = [every, *(without(every, [block]) for block in every)]
  whole, *others = evaluate(config, params, variants, images)
  lost = np.array([whole.top1 - other.top1 for other in others])
  return lost, np.array([other.loss for other in others])


def _block_cka(config: MixerConfig, params: dict, images: Images) -> Values:
  names = _stream(config)
  total = MinibatchCKA(len(names), len(names), names_x=names, names_y=names)
  step = make_cka_step(config, names, images.mesh, Method())
  for batch in images.batches():
    total.add(step(params, meshes.put(images.mesh, batch)))
  return _untied(1 - np.diagonal(total.result(), offset=1))


def _output_cka(config: MixerConfig, params: dict, images: Images) -> Values:
  every, last = tuple(range(config.num_blocks)), ['pre_logits']
  mixers = [with_blocks(config, params, without(every, [block])) for block in every]
  totals = [
    MinibatchCKA(1, 1, names_x=last, names_y=[f'pre_logits without block_{block}'])
    for block in every
  ]
  step = make_cka_step(config, last, images.mesh, Method(), config_y=mixers[0][0], names_y=last)
  for batch in images.batches():
    on_mesh = meshes.put(images.mesh, batch)
    for total, (_, kept) in zip(totals, mixers, strict=True):
      total.add(step(params, on_mesh, kept))
  return _untied(1 - np.array([total.result()[0, 0] for total in totals]))


def _cosine(config: MixerConfig, params: dict, images: Images) -> Values:
  def distances(params, batch):
    """1 − cosine at each block, summed over the images; and how many these are."""
    seen = _features(config, params, batch)
    stream = [seen[name].astype(jnp.float32) for name in _stream(config)]

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
      _refuse(config, params, on_mesh, images, number)
    total, count = total + sums, count + int(size)
  return _untied(total / max(count, 1))


MEASURES: dict[str, Callable[[MixerConfig, dict, Images], Values]] = {
  'block_cka': _block_cka,
  'output_cka': _output_cka,
  'cosine': _cosine,
  'leave_one_out': _leave_one_out,
}
"""By name; the block of the lowest value is left out first."""


def _stream(config: MixerConfig) -> list[str]:
  """What goes into the first block, and what comes out of each."""
  return ['stem', *(f'block_{i}' for i in range(config.num_blocks))]


def _untied(values: np.ndarray) -> Values:
  """Of equal ones the first goes first."""
  return values, np.zeros_like(values)


def _features(config: MixerConfig, params: dict, batch) -> dict[str, jax.Array]:
  images = batch['image']
  if images.dtype != jnp.uint8:
    images = models.from_levels(config, images)
  return models.features(config, params, images)


def _refuse(
  config: MixerConfig, params: dict, batch, images: Images, number: int, blocks: Blocks = ()
) -> NoReturn:
  """Raises `UserError` that names the first layer whose features are not finite."""

  def finite(params, batch):
    seen = _features(config, params, batch)
    rows = lambda x: jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
    return {name: jnp.all(rows(x) | ~batch['mask']) for name, x in seen.items()}

  told = jax.jit(finite, out_shardings=meshes.replicated(images.mesh))(params, batch)
  broken = [name for name in layer_names(config) if not told[name]]
  of = f' of the Mixer of blocks {",".join(map(str, blocks))}' if blocks else ''
  raise UserError(
    f'features of {broken[0] if broken else "logits"}{of} are not finite, or too large for '
    f'float32, in batch {number}: look for what overflows there'
  )
