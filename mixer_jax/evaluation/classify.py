"""Classification of a complete split: every image counted once, on any number of devices."""

import dataclasses
import time
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax import models
from mixer_jax.data.batch import FILLER, Batch
from mixer_jax.evaluation.pipelined import in_order, pipelined
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training.losses import get_loss

EvalStep = Callable[[dict, dict[str, jax.Array]], dict[str, jax.Array]]


@dataclasses.dataclass(frozen=True)
class Evaluation:
  """Accuracy on a split, and the prediction of each image."""

  top1: float
  """Percent of the decoded images."""
  top5: float
  loss: float
  """Mean of the loss that the model was trained with, nats."""
  examples: int
  """Number of decoded images."""
  undecodable: int
  real: float | None
  """Percent of the images with ReaL labels whose prediction is among these (section 3); None if
  the split has no such labels."""
  real_examples: int | None
  images_per_second: float
  """Measured from the second batch on (the first one compiles), unless there is only one."""
  labels: np.ndarray
  """(examples of the split,) int32."""
  predictions: np.ndarray
  """Most probable class of each example, int32; -1 if it did not decode."""
  confidences: np.ndarray
  """Probability of the prediction, float32; see `probabilities`."""

  def numbers(self) -> dict[str, float]:
    """Return the scalars that are known, for a log or a file."""
    arrays = ('labels', 'predictions', 'confidences')
    return {k: v for k, v in vars(self).items() if k not in arrays and v is not None}


def probabilities(logits: jax.Array, loss: str) -> jax.Array:
  """Return what a model trained with this loss says of each class, (B, N).

  By 'softmax' they sum to 1; by 'sigmoid' each class has a probability of its own.
  """
  return jax.nn.sigmoid(logits) if loss == 'sigmoid' else jax.nn.softmax(logits)


def make_eval_step(config, mesh, *, loss: str) -> EvalStep:
  """Make the jitted step (params, batch of `eval_batches` on the mesh) -> sums and predictions.

  All results are replicated. Make it once and evaluate as often as needed.

  Args:
    loss: that the model was trained with, 'softmax' or 'sigmoid'.
  """
  losses_of = get_loss(loss)

  def eval_step(params, batch):
    logits = models.apply(config, params, models.as_input(config, batch['image']))
    label, mask = batch['label'], batch['mask']
    best = jax.lax.top_k(logits, min(5, config.num_classes))[1]
    hits = best == label[:, None]
    losses = losses_of(logits, label)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0), dtype=jnp.float32)
    sums = {}
    if 'accepted' in batch:  # an image without any accepted label is left out
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
      'index': batch['index'],
      'label': label,
      'prediction': jnp.where(mask, best[:, 0], -1),
      'confidence': probabilities(logits, loss).max(axis=-1),
    }

  return jax.jit(eval_step, out_shardings=meshes.replicated(mesh))


def evaluate(
  eval_step: EvalStep, params: dict, batches: Iterable[Batch], mesh, *, size: int
) -> Evaluation:
  """Run `eval_step` over all batches of a split of `size` examples."""
  results, times = [], [time.perf_counter()]
  for result in pipelined(lambda batch: eval_step(params, meshes.put(mesh, batch)), batches):
    results.append(result)
    times.append(time.perf_counter())
  began, compiled = (times[1], results[0]['examples']) if len(results) > 1 else (times[0], 0)
  seconds = times[-1] - began
  total = {name: sum(float(r[name]) for r in results) for name in _SUMS if name in results[0]}
  count = max(total['examples'], 1)
  real_examples = total.get('real_examples')
  rows = in_order([{name: r[name] for name in _ROWS} for r in results], size)
  return Evaluation(
    top1=100 * total['top1'] / count,
    top5=100 * total['top5'] / count,
    loss=total['loss'] / count,
    examples=round(total['examples']),
    undecodable=round(total['undecodable']),
    real=None if real_examples is None else 100 * total['real'] / max(real_examples, 1),
    real_examples=None if real_examples is None else round(real_examples),
    images_per_second=(total['examples'] - float(compiled)) / seconds,
    labels=rows['label'],
    predictions=rows['prediction'],
    confidences=rows['confidence'],
  )


@dataclasses.dataclass(frozen=True)
class ClassRow:
  """Result for one class."""

  label: int
  images: int
  """Number of decoded images."""
  top1: float
  """Percent of them."""
  confused: int | None
  """Wrong class that was predicted most often."""
  times: int
  """Number of these predictions."""


def per_class(result: Evaluation) -> list[ClassRow]:
  """Return a row for each class that has images, the worst first."""
  rows = []
  for label in np.unique(result.labels[result.predictions >= 0]):
    predicted = result.predictions[(result.labels == label) & (result.predictions >= 0)]
    wrong, times = np.unique(predicted[predicted != label], return_counts=True)
    top1 = 100 * float(np.mean(predicted == label))
    confused = int(wrong[times.argmax()]) if wrong.size else None
    rows.append(ClassRow(int(label), predicted.size, top1, confused, int(times.max(initial=0))))
  return sorted(rows, key=lambda row: row.top1)


def make_top_step(config, mesh, count: int, *, loss: str) -> EvalStep:
  """Make the jitted step that returns each image's `count` most probable classes, replicated.

  Args:
    loss: as in `make_eval_step`.
  """

  def top_step(params, batch):
    logits = models.apply(config, params, models.as_input(config, batch['image']))
    # Of the logits: far from zero, several sigmoids round to the same number.
    classes = jax.lax.top_k(logits, min(count, config.num_classes))[1]
    shares = jnp.take_along_axis(probabilities(logits, loss), classes, axis=1)
    kept = {name: batch[name] for name in ('index', 'mask', 'unread') if name in batch}
    return {**kept, 'class': classes, 'probability': shares}

  return jax.jit(top_step, out_shardings=meshes.replicated(mesh))


_ROWS = ('index', 'label', 'prediction', 'confidence')
_SUMS = ('top1', 'top5', 'loss', 'examples', 'undecodable', 'real', 'real_examples')
