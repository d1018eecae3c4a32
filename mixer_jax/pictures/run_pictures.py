"""Pictures of a run, as PNG bytes: its curves, and its predictions for test images."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
  """Draw loss, accuracy and learning rate against the step, from rows of `metrics.jsonl`.

  The later row of a repeated step counts. A line marks the best step.
  """
  plt = pyplot()
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
  few = _last_by_step(row for row in rows if row.get('event') == 'fewshot')
  for shots in dict.fromkeys(name for row in few for name in row if name.endswith('-shot')):
    own = [row for row in few if shots in row]
    label = f'{shots}, {own[-1]["data"]}'
    axes[1].plot([row['step'] for row in own], [row[shots] for row in own], **style, label=label)
  if any(row['loss'] > 0 for row in train):
    axes[0].set_yscale('log')
  best = [row['best_step'] for row in rows if row.get('best_step') and row.get('event') == 'end'][
    -1:
  ]
  for axis in axes[:2]:
    for step in best:
      axis.axvline(step, color='0.4', linewidth=1, linestyle=':', label=f'best, step {step}')
  axes[0].legend(fontsize=8)
  axes[1].legend(loc='lower right', fontsize=8)
  return png_of(figure)


def predictions(
  images: Sequence[np.ndarray],
  labels: np.ndarray,
  predicted: np.ndarray,
  confidences: np.ndarray,
  classes: Sequence[str],
) -> bytes:
  """Draw a grid of (H, W, 3) uint8 images, each below its prediction; mistakes are red."""
  plt = pyplot()
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
  return png_of(figure)


def costs(reports: Sequence[dict[str, Any]]) -> bytes:
  """Draw hours and core-days against the number of devices, from reports of plans that fit."""
  plt = pyplot()
  figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout='constrained')
  kinds = sorted({report['topology'].partition(':')[0] for report in reports})
  for axis, key, title in zip(
    axes, ('hours', 'core_days'), ('estimated hours', 'estimated core-days'), strict=True
  ):
    for kind in kinds:
      rows = [report for report in reports if report['topology'].startswith(f'{kind}:')]
      rows.sort(key=lambda report: report['devices'])
      devices = [report['devices'] for report in rows]
      axis.plot(devices, [report[key] for report in rows], marker='o', linewidth=1, label=kind)
      for report in rows:
        axis.annotate(
          f'{report[key]:,.3g}',
          (report['devices'], report[key]),
          xytext=(0, 6),
          textcoords='offset points',
          fontsize=8,
        )
    ticks = sorted({report['devices'] for report in reports})
    axis.set_xscale('log', base=2)
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.set_title(title)
    axis.set_xlabel('devices')
    axis.set_ylim(bottom=0)
    axis.margins(y=0.15)
    axis.grid(alpha=0.3)
    if kinds:
      axis.legend()
  return png_of(figure)


def mistakes_first(labels: np.ndarray, predicted: np.ndarray, confidences: np.ndarray, count: int):
  """Return the indices of `count` examples to show.

  Mistakes come first, the most confident ones at the front; then correct predictions, the least
  confident ones first. Examples without a prediction (-1) are left out.
  """
  wrong = predicted != labels
  order = np.lexsort((np.where(wrong, -confidences, confidences), ~wrong))
  return order[predicted[order] >= 0][:count]


def _last_by_step(rows) -> list[dict[str, Any]]:
  by_step = {row['step']: row for row in rows}
  return [by_step[step] for step in sorted(by_step)]
