"""Pictures that compare runs and models, as PNG bytes."""

import math
from collections.abc import Mapping, Sequence

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted, legend_below, markers, step_axis

Curve = Mapping[int, float]
"""Step -> metric of one run."""

_LABEL = 60  # letters of a legend's line
_TITLE = 44  # letters of a line of a title or of the label of an axis
_MAX_VALUES = 12  # of a field, that all get a tick
_LETTERS_OF_VALUES = 70  # of all ticks of `by_value`
_LEAST_DISTANCE = 0.09  # of two ticks of `scaling`, as a share of the axis


def comparison(panels: Mapping[str, Mapping[str, Sequence[Curve]]], metric: str) -> bytes:
  """Draw a metric against steps: a panel for each title, a colour for each label.

  The runs of a label are thin lines. Their mean, at the steps that all of them have, is a thick
  line; the legend has its last value.
  """
  plt = pyplot()
  figure, axes = plt.subplots(
    1, len(panels), figsize=(5.2 * len(panels), 4.8), layout='constrained', sharey=True,
    squeeze=False,
  )  # fmt: skip
  for axis, (title, labels) in zip(axes[0], panels.items(), strict=True):
    for number, (label, runs) in enumerate(labels.items()):
      color = f'C{number}'
      for run in runs:
        steps = sorted(run)
        axis.plot(steps, [run[step] for step in steps], color=color, linewidth=0.6, alpha=0.45)
      steps = sorted(set.intersection(*(set(run) for run in runs)))
      means = [float(np.mean([run[step] for run in runs])) for step in steps]
      label = f'{fitted(label, _LABEL)}: {means[-1]:.1f}'
      axis.plot(steps, means, color=color, linewidth=1.8, label=label, **markers(len(steps)))
    axis.set_title(fitted(title, _TITLE, 2))
    step_axis(axis)
    axis.grid(alpha=0.3)
    legend_below(axis)
  axes[0][0].set_ylabel(fitted(metric, 30, 2))
  return png_of(figure)


def by_depth(
  models: Mapping[tuple[str, bool], Sequence[Mapping[float, float]]], metric: str
) -> bytes:
  """Draw a metric after each block against its relative depth in (0, 1].

  Args:
    models: (model, is trained) -> for each seed, depth -> metric. A model has one colour;
      untrained ones are dashed. Lines are means over seeds.
  """
  plt = pyplot()
  figure, axis = plt.subplots(figsize=(8.5, 4.6), layout='constrained')
  names = list(dict.fromkeys(name for name, _ in models))
  for (name, is_trained), seeds in models.items():
    depths = sorted(seeds[0])
    axis.plot(
      depths,
      [np.mean([seed[depth] for seed in seeds]) for depth in depths],
      color=f'C{names.index(name)}',
      linestyle='-' if is_trained else '--',
      marker='o',
      markersize=3,
      linewidth=1.2,
      label=fitted(name, _LABEL // 2, 2) if is_trained else None,
    )
  if not all(is_trained for _, is_trained in models):
    axis.plot([], [], color='grey', linestyle='--', label='untrained')
  axis.set_xlim(0, 1.03)
  axis.set_xlabel('share of the blocks passed')
  axis.set_ylabel(fitted(metric, _TITLE, 2))
  axis.grid(alpha=0.3)
  axis.legend(fontsize=8, loc='center left', bbox_to_anchor=(1, 0.5))
  return png_of(figure)


def scaling(
  lines: Mapping[str, Mapping[int, Sequence[float]]], shares: Mapping[int, str], metric: str
) -> bytes:
  """Draw a metric against the number of training images, on a logarithmic axis.

  Args:
    lines: label -> number of images -> metric of each run. Means are a line, runs are dashes.
    shares: number of images -> their share of all, in words.
    metric: name and unit.
  """
  plt = pyplot()
  figure, axis = plt.subplots(figsize=(7, 5.2), layout='constrained')
  _draw_means_and_runs(axis, lines)
  axis.set_xscale('log')
  sizes = _apart(sorted(shares))
  axis.set_xticks(sizes, [f'{shares[size]}\n{size:,}' for size in sizes])
  axis.set_xticks([], minor=True)
  axis.set_xlabel('training images: share of all, and number')
  axis.set_ylabel(fitted(metric, _TITLE, 2))
  legend_below(axis, room=54)
  return png_of(figure)


def by_value(
  lines: Mapping[str, Mapping[int, Sequence[float]]],
  values: Sequence[str],
  field: str,
  metric: str,
  best: int | None,
) -> bytes:
  """Draw a metric against the values of a field, each at the same distance from the next.

  Args:
    lines: label -> number of the value -> metric of each run. Means are a line, runs are dashes.
    values: in words.
    field: its name.
    metric: name and unit.
    best: number of the value that gets a dotted line.
  """
  figure, axis = pyplot().subplots(figsize=(7, 5.2), layout='constrained')
  _draw_means_and_runs(axis, lines)
  if best is not None:
    axis.axvline(best, color='0.4', linewidth=1, linestyle=':', label='chosen')
  shown = range(0, len(values), -(-len(values) // _MAX_VALUES))
  letters = _LETTERS_OF_VALUES // max(len(shown), 1)
  axis.set_xticks(shown, [fitted(values[place], letters, 2) for place in shown], parse_math=False)
  axis.set_xlim(-0.5, len(values) - 0.5)
  axis.set_xlabel(fitted(field, _LABEL))
  axis.set_ylabel(fitted(metric, _TITLE, 2))
  legend_below(axis, room=54)
  return png_of(figure)


def _draw_means_and_runs(axis, lines: Mapping[str, Mapping[int, Sequence[float]]]) -> None:
  for number, (label, parts) in enumerate(lines.items()):
    color, places = f'C{number}', sorted(parts)
    means = [float(np.mean(parts[place])) for place in places]
    label = fitted(label, _LABEL)
    axis.plot(places, means, color=color, marker='o', markersize=5, linewidth=1.8, label=label)
    for place in places:
      runs = parts[place]
      axis.plot([place] * len(runs), runs, '_', color=color, markersize=9, alpha=0.7)
  axis.set_title('lines: means over seeds; dashes: runs', fontsize=9)
  axis.grid(alpha=0.3)


def _apart(sizes: Sequence[int]) -> list[int]:
  """Return the sizes whose labels do not overlap on a logarithmic axis; the largest is one."""
  least = _LEAST_DISTANCE * math.log(sizes[-1] / sizes[0])
  kept = [sizes[-1]]
  for size in reversed(sizes[:-1]):
    if math.log(kept[-1] / size) >= least:
      kept.append(size)
  return kept[::-1]
