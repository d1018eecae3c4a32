"""How far each head of attention looks (ViT paper, Figure 7 right and section D.7).

The attention distance of a query is the mean distance from its patch to all patches, weighted by
the weights of its attention, in pixels between centres. A class token has no place in the image:
as a query it is left out, and the weights of the other keys are divided by their sum, so that a
head that gives the class token most of its weight does not pass for one that looks near.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax import models
from mixer_jax.data.batch import Batch
from mixer_jax.evaluation.features import feature_shapes
from mixer_jax.evaluation.pipelined import pipelined
from mixer_jax.parallel import mesh as meshes


def patch_distances(side: int, image_size: int) -> np.ndarray:
  """Return the distances between the centres of patches, pixels, (patches, patches) float32.

  Args:
    side: patches per side, which are in raster order.
    image_size: side of the image, pixels.
  """
  place = np.indices((side, side)).reshape(2, -1) * (image_size / side)
  return np.hypot(*(place[:, :, None] - place[:, None, :])).astype(np.float32)


def uniform_distance(config) -> float:
  """Return the attention distance of a head that gives all patches the same weight, pixels."""
  weights_of = models.capability(config, 'attention_weights')
  weights = jax.eval_shape(lambda of: weights_of(config, of, 0), dict(feature_shapes(config)))
  side = math.isqrt(weights.shape[-1])
  return float(patch_distances(side, config.image_size).mean(dtype=np.float64))


def attention_statistics(weights_BhSS: jax.Array, image_size: int) -> dict[str, jax.Array]:
  """Return what the attention weights of a block say of each image; traceable.

  Returns:
    `distance`, (B, heads): mean attention distance over the queries, pixels; a query that gives
    the class token all of its weight counts as 0. With a class token also `class_token_share`,
    (B, heads): mean weight that the patches give to it, and `class_token_map`, (B, heads,
    patches): weight that it gives to each of them.
  """
  side = math.isqrt(weights_BhSS.shape[-1])
  first = weights_BhSS.shape[-1] - side**2
  weights_BhPP = weights_BhSS[:, :, first:, first:]
  of_patches = weights_BhPP.sum(-1)
  moment = (weights_BhPP * patch_distances(side, image_size)).sum(-1)
  distance = moment / jnp.where(of_patches == 0, 1, of_patches)
  found = {'distance': distance.mean(-1)}
  if first:
    found['class_token_share'] = weights_BhSS[:, :, first:, 0].mean(-1)
    found['class_token_map'] = weights_BhSS[:, :, 0, first:]
  return found


AttentionStep = Callable[[dict, Mapping[str, Any]], dict[str, jax.Array]]


def make_attention_step(config, mesh) -> AttentionStep:
  """Make the jitted step (params, batch of `eval_batches` on the mesh) -> statistics, replicated.

  The weights of a block exist only inside the program. Its results are `mask`, (B,), and those of
  `attention_statistics` of all blocks: `distance` and `class_token_share` are (B, blocks, heads),
  and `class_token_map` is the sum over the images of the mask, (blocks, heads, patches).

  Raises:
    UserError: the model has no attention.
  """
  weights_of = models.capability(config, 'attention_weights')

  def attention_step(params, batch):
    features = models.features(config, params, models.as_input(config, batch['image']))
    blocks = []
    for block in range(config.num_blocks):
      found = attention_statistics(weights_of(config, features, block), config.image_size)
      if 'class_token_map' in found:
        shown = jnp.where(batch['mask'][:, None, None], found['class_token_map'], 0)
        found['class_token_map'] = shown.sum(0)
      blocks.append(found)
    axis = lambda name: 0 if name == 'class_token_map' else 1
    return {'mask': batch['mask']} | {
      name: jnp.stack([found[name] for found in blocks], axis(name)) for name in blocks[0]
    }

  return jax.jit(attention_step, out_shardings=meshes.replicated(mesh))


@dataclasses.dataclass(frozen=True)
class Attention:
  """What `attention_statistics` says of the images that decoded, float64, on the host.

  Attributes:
    distance: pixels, (images, blocks, heads).
    class_token_share: of each image, (images, blocks, heads); None without a class token.
    class_token_map: mean over images, (blocks, heads, G, G); None likewise.
  """

  distance: np.ndarray
  class_token_share: np.ndarray | None
  class_token_map: np.ndarray | None


def measure(step: AttentionStep, params: dict, batches: Iterable[Batch], mesh) -> Attention:
  """Run a step of `make_attention_step` over all batches of a split."""
  rows: list[dict[str, np.ndarray]] = []
  maps: Any = 0.0
  for found in pipelined(lambda batch: step(params, meshes.put(mesh, batch)), batches):
    maps = maps + np.float64(found.pop('class_token_map', 0))
    mask = found.pop('mask')
    rows.append({name: values[mask].astype(np.float64) for name, values in found.items()})
  joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
  distance, share = joined['distance'], joined.get('class_token_share')
  if share is None:
    return Attention(distance, None, None)
  blocks, heads, patches = np.shape(maps)
  side = math.isqrt(patches)
  mean = (maps / max(len(distance), 1)).reshape(blocks, heads, side, side)
  return Attention(distance, share, mean)
