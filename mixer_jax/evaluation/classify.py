"""Classification of a whole split: every image counted once, on any number of devices."""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax import models
from mixer_jax.data.batch import FILLER, Batch
from mixer_jax.parallel import mesh as meshes

EvalStep = Callable[[dict, dict[str, jax.Array]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """What a split gave."""

  top1: float
  """Percent of the images that decoded."""
  top5: float
  loss: float
  """Mean softmax cross-entropy, nats."""
  examples: int
  """Images that decoded."""
  undecodable: int
  real: float | None
  """Percent of the images with a ReaL label whose prediction is among them (section 3);
  None where the split has no such labels."""
  real_examples: int | None
  images_per_second: float
  """Behind the first batch, which compiles; where there is but one, with it."""
  labels: np.ndarray
  """Of each example of the split, int32."""
  predictions: np.ndarray
  """Most probable class of each example of the split, int32; -1 where it did not decode."""
  confidences: np.ndarray
  """Its probability, float32."""

  def numbers(self) -> dict[str, float]:
    """The scalars that there are, for a log or a file."""
    arrays = ('labels', 'predictions', 'confidences')
    return {k: v for k, v in vars(self).items() if k not in arrays and v is not None}


def make_eval_step(config, mesh) -> EvalStep:
  """The jitted step: (params, batch of `eval_batches` on the mesh) -> sums and predictions.

  All results are replicated. Compile it once and evaluate as often as needed.
  """

  def eval_step(params, batch):
    logits = models.apply(config, params, _pixels(config, batch))
    label, mask = batch['label'], batch['mask']
    best = jax.lax.top_k(logits, min(5, config.num_classes))[1]
    hits = best == label[:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0), dtype=jnp.float32)
    sums = {}
    if 'accepted' in batch:  # an image without any right label is left out
      accepted = batch['accepted']
      right = jnp.take_along_axis(accepted, best[:, :1], axis=1)[:, 0]
      sums = {'real': total(right), 'real_examples': total(accepted.any(axis=1))}
    return {
      **sums,
      'top1': total(hits[:, 0]),
      'top5': total(hits.any(axis=1)),
      'loss': total(losses),
      'examples': total(1),
      'undecodable': jnp.sum((batch['index'] != FILLER) & ~mask),
      'label': label,
      'prediction': jnp.where(mask, best[:, 0], -1),
      'confidence': jax.nn.softmax(logits).max(axis=-1),
    }

  return jax.jit(eval_step, out_shardings=meshes.replicated(mesh))


def evaluate(
  eval_step: EvalStep, params: dict, batches: Iterable[Batch], mesh, *, size: int
) -> Evaluation:
  """Runs `eval_step` over all batches of a split of `size` examples.

  The next batch is read and dispatched before the last one's results are.
  """
  results, pending, began, behind = [], None, time.perf_counter(), 0
  for batch in batches:
    dispatched = eval_step(params, meshes.put(mesh, batch))
    if pending is not None:
      results.append(jax.device_get(pending))
      if len(results) == 1:
        began, behind = time.perf_counter(), float(results[0]['examples'])
    pending = dispatched
  results.append(jax.device_get(pending))
  seconds = time.perf_counter() - began
  total = {name: sum(float(r[name]) for r in results) for name in _SUMS if name in results[0]}
  count = max(total['examples'], 1)
  real_examples = total.get('real_examples')
  return Evaluation(
    top1=100 * total['top1'] / count,
    top5=100 * total['top5'] / count,
    loss=total['loss'] / count,
    examples=round(total['examples']),
    undecodable=round(total['undecodable']),
    real=None if real_examples is None else 100 * total['real'] / max(real_examples, 1),
    real_examples=None if real_examples is None else round(real_examples),
    images_per_second=(total['examples'] - behind) / seconds,
    labels=np.concatenate([r['label'] for r in results])[:size],
    predictions=np.concatenate([r['prediction'] for r in results])[:size],
    confidences=np.concatenate([r['confidence'] for r in results])[:size],
  )


@dataclasses.dataclass(frozen=True)
class ClassRow:
  """How one class was classified."""

  label: int
  images: int
  """That decoded."""
  top1: float
  """Percent of them."""
  confused: int | None
  """The wrong class that was predicted most often."""
  times: int
  """How often."""


def per_class(result: Evaluation) -> list[ClassRow]:
  """A row for each class that has images, the worst first."""
  rows = []
  for label in np.unique(result.labels[result.predictions >= 0]):
    predicted = result.predictions[(result.labels == label) & (result.predictions >= 0)]
    wrong, times = np.unique(predicted[predicted != label], return_counts=True)
    top1 = 100 * float(np.mean(predicted == label))
    confused = int(wrong[times.argmax()]) if wrong.size else None
    rows.append(ClassRow(int(label), predicted.size, top1, confused, int(times.max(initial=0))))
  return sorted(rows, key=lambda row: row.top1)


def make_top_step(config, mesh, count: int) -> EvalStep:
  """The jitted step that gives each image's `count` most probable classes, all replicated."""

  def top_step(params, batch):
    probabilities = jax.nn.softmax(models.apply(config, params, _pixels(config, batch)))
    best, classes = jax.lax.top_k(probabilities, min(count, config.num_classes))
    return {**{k: batch[k] for k in ('index', 'mask')}, 'class': classes, 'probability': best}

  return jax.jit(top_step, out_shardings=meshes.replicated(mesh))


def _pixels(config, batch: dict[str, jax.Array]) -> jax.Array:
  """What `apply` takes: uint8 levels as they are, others in the model's range."""
  images = batch['image']
  return images if images.dtype == jnp.uint8 else models.from_levels(config, images)


_SUMS = ('top1', 'top5', 'loss', 'examples', 'undecodable', 'real', 'real_examples')
