"""Pictures that compare runs and models, as PNG bytes."""

from collections.abc import Mapping, Sequence

import numpy as np

from mixer_jax.pictures.drawing import png_of, pyplot

Curve = Mapping[int, float]
"""Step -> metric of one run."""


def comparison(panels: Mapping[str, Mapping[str, Sequence[Curve]]], metric: str) -> bytes:
  """Draw a metric against steps: a panel for each title, a colour for each label.

  The runs of a label are thin lines. Their mean, at the steps that all of them have, is a thick
  line; the legend has its last value.
  """
  plt = pyplot()
  figure, axes = plt.subplots(
    1, len(panels), figsize=(5.2 * len(panels), 4), layout='constrained', sharey=True, squeeze=False
  )
  for axis, (title, labels) in zip(axes[0], panels.items(), strict=True):
    for number, (label, runs) in enumerate(labels.items()):
      color = f'C{number}'
      for run in runs:
        steps = sorted(run)
        axis.plot(steps, [run[step] for step in steps], color=color, linewidth=0.6, alpha=0.45)
      steps = sorted(set.intersection(*(set(run) for run in runs)))
      means = [float(np.mean([run[step] for run in runs])) for step in steps]
      axis.plot(steps, means, color=color, linewidth=1.8, label=f'{label}: {means[-1]:.1f}')
    axis.set_title(title)
    axis.set_xlabel('step')
    axis.grid(alpha=0.3)
    axis.legend(loc='lower right', fontsize=9)
  axes[0][0].set_ylabel(metric)
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
  figure, axis = plt.subplots(figsize=(7.5, 4.6), layout='constrained')
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
      label=name if is_trained else None,
    )
  axis.plot([], [], color='grey', linestyle='--', label='untrained')
  axis.set_xlabel('share of the blocks passed')
  axis.set_ylabel(metric)
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
  figure, axis = plt.subplots(figsize=(7, 4.6), layout='constrained')
  for number, (label, parts) in enumerate(lines.items()):
    color, sizes = f'C{number}', sorted(parts)
    means = [float(np.mean(parts[size])) for size in sizes]
    axis.plot(sizes, means, color=color, marker='o', markersize=5, linewidth=1.8, label=label)
    for size in sizes:
      axis.plot([size] * len(parts[size]), parts[size], '_', color=color, markersize=9, alpha=0.7)
  sizes = sorted(shares)
  axis.set_xscale('log')
  axis.set_xticks(sizes, [f'{shares[size]}\n{size:,}' for size in sizes])
  axis.set_xticks([], minor=True)
  axis.set_xlabel('training images: share of all, and number')
  axis.set_ylabel(metric)
  axis.set_title('lines: means over seeds; dashes: runs', fontsize=9)
  axis.grid(alpha=0.3)
  axis.legend(loc='lower right', fontsize=9)
  return png_of(figure)
