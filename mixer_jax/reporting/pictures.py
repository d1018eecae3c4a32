"""Pictures of a run, as PNG bytes: its curves, and what it says of test images."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
  """Loss, accuracy and learning rate against the step, from the rows of `metrics.jsonl`.

  Where a step was done twice, the later row counts.
  """
  plt = _pyplot()
  train = _last_by_step(row for row in rows if 'event' not in row and 'loss' in row)
  evals = _last_by_step(row for row in rows if row.get('event') == 'eval')
  figure, axes = plt.subplots(1, 3, figsize=(13, 3.6), layout='constrained')
  style = {'marker': 'o', 'markersize': 3, 'linewidth': 1}
  for axis, title in zip(axes, ('loss', 'accuracy, %', 'learning rate'), strict=True):
    axis.set_title(title)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
  steps = [row['step'] for row in train]
  axes[0].plot(steps, [row['loss'] for row in train], linewidth=1, label='train batch')
  axes[1].plot(steps, [100 * row['accuracy'] for row in train], linewidth=1, label='train batch')
  axes[2].plot(steps, [row['learning_rate'] for row in train], linewidth=1, color='C2')
  eval_steps = [row['step'] for row in evals]
  axes[0].plot(eval_steps, [row['loss'] for row in evals], **style, label='evaluation')
  axes[1].plot(eval_steps, [row['top1'] for row in evals], **style, label='evaluation')
  if any(row['loss'] > 0 for row in train):
    axes[0].set_yscale('log')
  axes[0].legend()
  axes[1].legend(loc='lower right')
  return _png(figure)


def predictions(
  images: Sequence[np.ndarray],
  labels: np.ndarray,
  predicted: np.ndarray,
  confidences: np.ndarray,
  classes: Sequence[str],
) -> bytes:
  """A grid of (H, W, 3) uint8 images, each under what is predicted, mistakes in red."""
  plt = _pyplot()
  columns = 8
  rows = max(-(-len(images) // columns), 1)
  figure, axes = plt.subplots(
    rows, columns, figsize=(1.5 * columns, 1.8 * rows), layout='constrained', squeeze=False
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, image, label, guess, share in zip(
    axes.flat, images, labels, predicted, confidences, strict=False
  ):
    axis.imshow(image, interpolation='nearest')
    right = label == guess
    text = f'{classes[guess]}  {100 * share:.0f} %'
    axis.set_title(
      text if right else f'{text}\nis {classes[label]}',
      fontsize=9,
      color='black' if right else 'firebrick',
    )
  return _png(figure)


def mistakes_first(labels: np.ndarray, predicted: np.ndarray, confidences: np.ndarray, count: int):
  """Indices of `count` examples: mistakes, the most confident first, then the least sure hits.

  Examples without a prediction (-1) are left out.
  """
  wrong = predicted != labels
  order = np.lexsort((np.where(wrong, -confidences, confidences), ~wrong))
  return order[predicted[order] >= 0][:count]


def _last_by_step(rows) -> list[dict[str, Any]]:
  by_step = {row['step']: row for row in rows}
  return [by_step[step] for step in sorted(by_step)]


def _pyplot():
  import matplotlib

  matplotlib.use('agg')
  import matplotlib.pyplot as plt

  return plt


def _png(figure) -> bytes:
  buffer = io.BytesIO()
  figure.savefig(buffer, format='png', dpi=110)
  _pyplot().close(figure)
  return buffer.getvalue()
