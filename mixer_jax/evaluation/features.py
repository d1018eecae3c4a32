"""Frozen features of a model: pooled per image, gathered over a split, and whitened."""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax import models
from mixer_jax.data.batch import Batch
from mixer_jax.errors import UserError
from mixer_jax.evaluation.pipelined import in_order, pipelined
from mixer_jax.parallel import mesh as meshes

HIGHEST = jax.lax.Precision.HIGHEST
"""Precision of products of features: by default a TPU multiplies in bfloat16."""


@dataclasses.dataclass(frozen=True)
class Features:
  """Features of a split, on the host of every process."""

  layers: dict[str, np.ndarray]
  """Layer name -> (examples, C) float32."""
  labels: np.ndarray
  """(examples,) int32."""
  mask: np.ndarray
  """(examples,) bool: True for images that decoded; features of the others are meaningless."""


@functools.lru_cache(maxsize=64)
def feature_shapes(config) -> dict[str, jax.ShapeDtypeStruct]:
  """Shape and dtype of everything `models.features` returns for one image, in order of depth."""
  images = jax.ShapeDtypeStruct((1, config.image_size, config.image_size, 3), jnp.uint8)
  return jax.eval_shape(functools.partial(models.features, config), models.shapes(config), images)


@functools.lru_cache(maxsize=64)
def spatial_axes(config) -> dict[str, tuple[int, ...]]:
  """Axes of each of `models.features` over places in the image: those that grow with its size."""
  larger = dataclasses.replace(config, image_size=2 * config.image_size)
  return {
    name: tuple(axis for axis, sizes in enumerate(zip(one.shape, two.shape, strict=True))
                if sizes[0] != sizes[1])
    for (name, one), two in zip(
      feature_shapes(config).items(), feature_shapes(larger).values(), strict=True
    )
  }  # fmt: skip


def pooled_features(config, params, batch: Mapping[str, Any], names: Sequence[str]) -> dict:
  """Return these of `models.features` for a batch of `eval_batches`, (B, C) float32; traceable.

  Features of every place in the image are averaged over the places in float32: (B, S, C), a class
  token among the S, and (B, H, W, C). Heads of attention stay apart: (B, S, heads, d) becomes
  (B, heads · d). Without such an axis, all axes between the first and the last are averaged.
  """
  features = models.features(config, params, models.as_input(config, batch['image']))

  def pooled(name):
    x = features[name]
    axes = spatial_axes(config)[name] if x.ndim > 3 else ()  # which traces the model once more
    axes = axes or tuple(range(1, x.ndim - 1))
    return jnp.mean(x, axis=axes, dtype=jnp.float32).reshape(len(x), -1)

  return {name: pooled(name) for name in names}


def make_feature_step(config, mesh, names: Sequence[str]):
  """Make the jitted step (params, batch) -> `layers`, `label`, `mask`, `index`, replicated.

  Only the (B, C) means leave the compiled program, not the features of all tokens.

  Raises:
    UserError: the model has no such layer.
  """
  known = feature_shapes(config)
  for name in names:
    if name not in known:
      raise UserError(f"no layer {name!r} in this model: use for example 'block_0', 'pre_logits'")

  def feature_step(params, batch):
    layers = pooled_features(config, params, batch, names)
    return {'layers': layers, **{name: batch[name] for name in ('label', 'mask', 'index')}}

  return jax.jit(feature_step, out_shardings=meshes.replicated(mesh))


def gather(step, params: dict, batches: Iterable[Batch], mesh, *, size: int) -> Features:
  """Run a step of `make_feature_step` over all batches of a split of `size` examples."""
  results = pipelined(lambda batch: step(params, meshes.put(mesh, batch)), batches)
  joined = in_order(list(results), size)
  return Features(joined['layers'], joined['label'], joined['mask'])


class Whitened(NamedTuple):
  """Features with mean 0 and unit scale, and the shift and scale that were removed."""

  x_nC: jax.Array
  """0 in masked rows."""
  mean_C: jax.Array
  scale_C: jax.Array


def whiten(x_nC, mask_n, scale: Callable[[jax.Array], jax.Array]) -> Whitened:
  """Subtract the mean over unmasked rows, then divide by `scale(standard deviation)`; traceable.

  A feature that is constant becomes exactly 0: one of the rows is subtracted before anything is
  summed. A rounded mean alone would leave a remainder, which a small scale magnifies.
  """
  first_C = x_nC[jnp.argmax(mask_n)]
  x_nC = jnp.where(mask_n[:, None], x_nC - first_C, 0)
  shift_C = masked_mean(x_nC, mask_n)
  x_nC = jnp.where(mask_n[:, None], x_nC - shift_C, 0)
  scale_C = scale(jnp.sqrt(masked_mean(x_nC**2, mask_n)))
  return Whitened(x_nC / scale_C, first_C + shift_C, scale_C)


def masked_mean(x_nC, mask_n):
  """Mean over the rows whose mask is True, (C,); traceable."""
  return jnp.sum(jnp.where(mask_n[:, None], x_nC, 0), axis=0) / count(mask_n)


def count(mask_n):
  """Number of rows whose mask is True, float32, at least 1; traceable."""
  return jnp.maximum(jnp.sum(mask_n, dtype=jnp.float32), 1)


def put(array: np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
  """Place a host array, the same in every process, on the devices of all processes."""
  return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])
