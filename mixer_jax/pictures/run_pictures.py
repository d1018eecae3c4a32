"""Pictures of a run, as PNG bytes: its curves, and its predictions for test images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted, legend_below, log_axis, markers, step_axis, widen

_LABEL = 30  # letters of a curve's name: two fit below the axes
_CAPTION = 18  # letters above an image
_LOG_RANGE = 10  # losses that span a larger factor are drawn on a logarithmic axis
_MAX_LABELLED = 9  # numbers of devices whose values are written


def curves(rows: Sequence[dict[str, Any]]) -> bytes:
  """Draw loss, accuracy and learning rate against the step, from rows of `metrics.jsonl`.

  The later row of a repeated step counts. A line marks the best step.
  """
  train = _last_by_step(row for row in rows if 'event' not in row and 'loss' in row)
  evals = _last_by_step(row for row in rows if row.get('event') == 'eval')
  few = _last_by_step(row for row in rows if row.get('event') == 'fewshot')
  ends = [row['best_step'] for row in rows if row.get('event') == 'end' and row.get('best_step')]
  figure, axes = pyplot().subplots(1, 3, figsize=(13, 4.4), layout='constrained')
  for axis, title in zip(axes, ('loss', 'accuracy, %', 'learning rate'), strict=True):
    axis.set_title(title)
    axis.grid(alpha=0.3)
    step_axis(axis)
  loss, accuracy, rate = axes
  _draw(loss, train, 'loss', 'train batch')
  _draw(loss, evals, 'loss', 'evaluation', points=True)
  _draw(accuracy, train, 'accuracy', 'train batch', scale=100)
  _draw(accuracy, evals, 'top1', 'evaluation', points=True)
  for shots in dict.fromkeys(name for row in few for name in row if name.endswith('-shot')):
    own = [row for row in few if shots in row]
    _draw(accuracy, own, shots, f'{shots}, {own[-1]["data"]}', points=True)
  _draw(rate, train, 'learning_rate', color='C2')
  losses = [row['loss'] for row in (*train, *evals) if math.isfinite(row['loss'])]
  if losses and min(losses) > 0 and max(losses) > _LOG_RANGE * min(losses):
    log_axis(loss, losses)
  else:
    widen(loss)
  for axis in (loss, accuracy):
    for step in ends[-1:]:
      axis.axvline(step, color='0.4', linewidth=1, linestyle=':', label=f'best, step {step:,}')
    legend_below(axis, ncols=2)
  return png_of(figure)


def _draw(
  axis, rows: Sequence[dict[str, Any]], metric: str, label: str = '', *,
  scale: float = 1, points: bool = False, **style: Any,
) -> None:  # fmt: skip
  """Draw a metric of rows against their step; `points`: with a marker at each."""
  marked = markers(0 if points else len(rows))
  values = [scale * row[metric] for row in rows]
  if rows:
    label = fitted(label, _LABEL)
    axis.plot([row['step'] for row in rows], values, linewidth=1, label=label, **marked, **style)


def predictions(
  images: Sequence[np.ndarray],
  labels: np.ndarray,
  predicted: np.ndarray,
  confidences: np.ndarray,
  classes: Sequence[str],
) -> bytes:
  """Draw a grid of (H, W, 3) uint8 images, each below its prediction; mistakes are red."""
  columns = min(max(len(images), 1), 8)
  rows = max(-(-len(images) // columns), 1)
  figure, axes = pyplot().subplots(
    rows, columns, figsize=(1.5 * columns, 1.9 * rows), layout='constrained', squeeze=False
  )
  for axis in axes.flat:
    axis.axis('off')
  for axis, image, label, guess, share in zip(
    axes.flat, images, labels, predicted, confidences, strict=False
  ):
    axis.imshow(image, interpolation='nearest')
    right = label == guess
    text = fitted(f'{classes[guess]}  {100 * share:.0f} %', _CAPTION, 2)
    axis.set_title(
      text if right else f'{text}\n{fitted(f"is {classes[label]}", _CAPTION, 2)}',
      fontsize=8,
      color='black' if right else 'firebrick',
    )
  return png_of(figure)


def costs(reports: Sequence[dict[str, Any]]) -> bytes:
  """Draw hours and core-days against the number of devices, from reports of plans that fit.

  The largest and the smallest value of each number of devices are written next to their points.
  """
  figure, axes = pyplot().subplots(1, 2, figsize=(10, 4.4), layout='constrained')
  kinds = sorted({report['topology'].partition(':')[0] for report in reports})
  devices = sorted({report['devices'] for report in reports})
  for axis, key, title in zip(
    axes, ('hours', 'core_days'), ('estimated hours', 'estimated core-days'), strict=True
  ):
    for kind in kinds:
      rows = [report for report in reports if report['topology'].startswith(f'{kind}:')]
      rows.sort(key=lambda report: report['devices'])
      values = [report[key] for report in rows]
      axis.plot(
        [report['devices'] for report in rows], values, marker='o', ms=4, lw=1, label=kind
      )  # fmt: skip
    by_count = {
      count: [report[key] for report in reports if report['devices'] == count] for count in devices
    }
    falling = key == 'hours'  # as 1 / devices
    if falling:
      log_axis(axis, [report[key] for report in reports])
    else:
      axis.set_ylim(0, 1.15 * max(map(max, by_count.values())))
    margin = max((devices[-1] / devices[0]) ** 0.15, 1.6)
    axis.set_xscale('log', base=2)
    axis.set_xlim(devices[0] / margin, devices[-1] * margin)
    axis.set_xticks(devices, [f'{count:,}' for count in devices])
    axis.set_xticks([], minor=True)
    for count, own in by_count.items() if len(devices) <= _MAX_LABELLED else ():
      _write_value(axis, count, max(own), above=True, aside=falling)
      if max(own) > min(own):
        _write_value(axis, count, min(own), above=False, aside=falling)
    axis.set_title(title)
    axis.set_xlabel('devices')
    axis.grid(alpha=0.3)
    legend_below(axis, ncols=4)
  return png_of(figure)


def _write_value(axis, x: float, y: float, *, above: bool, aside: bool) -> None:
  """Write a value above or below its point; `aside`: away from a falling line."""
  sign = 1 if above else -1
  axis.annotate(
    f'{y:,.0f}' if y >= 100 else f'{y:.3g}',
    (x, y),
    xytext=(2 * sign if aside else 0, 4 * sign),
    textcoords='offset points',
    ha=('left' if above else 'right') if aside else 'center',
    va='bottom' if above else 'top',
    fontsize=8,
  )


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
