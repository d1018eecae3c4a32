"""Classification of a whole split: every image counted once, on any number of devices."""

import dataclasses
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mixer_jax import models
from mixer_jax.data.pipeline import FILLER, Batch
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
  labels: np.ndarray
  """Of each example of the split, int32."""
  predictions: np.ndarray
  """Most probable class of each example of the split, int32; -1 where it did not decode."""
  confidences: np.ndarray
  """Its probability, float32."""

  def numbers(self) -> dict[str, float]:
    """The scalars, for a log or a file."""
    arrays = ('labels', 'predictions', 'confidences')
    return {k: v for k, v in vars(self).items() if k not in arrays}


def make_eval_step(config, mesh) -> EvalStep:
  """The jitted step: (params, batch of `eval_batches` on the mesh) -> sums and predictions.

  All results are replicated. Compile it once and evaluate as often as needed.
  """

  def eval_step(params, batch):
    logits = models.apply(config, params, batch['image'])
    label, mask = batch['label'], batch['mask']
    best = jax.lax.top_k(logits, min(5, config.num_classes))[1]
    hits = best == label[:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
    total = lambda x: jnp.sum(jnp.where(mask, x, 0), dtype=jnp.float32)
    return {
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
  results, pending = [], None
  for batch in batches:
    dispatched = eval_step(params, meshes.put(mesh, batch))
    if pending is not None:
      results.append(jax.device_get(pending))
    pending = dispatched
  results.append(jax.device_get(pending))
  total = {name: sum(float(r[name]) for r in results) for name in _SUMS}
  count = max(total['examples'], 1)
  return Evaluation(
    top1=100 * total['top1'] / count,
    top5=100 * total['top5'] / count,
    loss=total['loss'] / count,
    examples=round(total['examples']),
    undecodable=round(total['undecodable']),
    labels=np.concatenate([r['label'] for r in results])[:size],
    predictions=np.concatenate([r['prediction'] for r in results])[:size],
    confidences=np.concatenate([r['confidence'] for r in results])[:size],
  )


_SUMS = ('top1', 'top5', 'loss', 'examples', 'undecodable')
