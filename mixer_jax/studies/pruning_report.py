"""Table, conclusions and picture of `mixer-jax prune`, from what `prune.json` holds."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax.evaluation.statistics import mean_deviation
from mixer_jax.pictures import text_tables
from mixer_jax.pictures.drawing import png_of, pyplot
from mixer_jax.pictures.labels import fitted, legend_below

Report = Mapping[str, Any]
"""Content of `prune.json`, or a row of it."""

_INCHES_PER_COLUMN = 0.085  # of a marker
_ONE_BY_ONE = ', one by one'
_HEADER = (
  *('blocks left out', 'by', 'top-1 after, %', 'recovered, %', 'parameters', 'GFLOP', 'time'),
)


def text(values: Report) -> str:
  """Table and conclusions."""
  return table(values) + verdict(values)


def files(values: Report) -> dict[str, bytes]:
  """File name -> picture."""
  return {'prune.png': picture(values)}


def table(report: Report) -> str:
  """A line for each number of removed blocks and score; means ± deviation over seeds."""
  whole = report['whole']
  top1, recovered = f'{whole["top1"]:.2f}', _spread(whole['after_recovery'])
  rows = [('none', '', top1, recovered, *_costs(whole))]
  for count, of_count in _by_count(report).items():
    for label, same in _by_label(of_count).items():
      gone = ','.join(map(str, same[0]['blocks_removed'])) if len(same) == 1 else f'any {count}'
      after = _spread([row['after_removal'] for row in same])
      recovered = _spread([value for row in same for value in row['after_recovery']])
      rows.append((gone, label, after, recovered, *_costs(same[0])))
  return text_tables.aligned(_HEADER, rows, left=2)


def verdict(report: Report) -> str:
  """A sentence for each number of blocks: test accuracy of the choice that fits the scored images.

  Of all choices by scored images it is the one with the least loss on these.
  """
  lines = []
  for count, rows in _by_count(report).items():
    measured = [row for row in rows if row['score'] not in ('random', 'first', 'last')]
    if not measured:
      continue
    row = min(measured, key=lambda row: row['scored_loss'])
    line = (
      f'{count} of {report["model"]["num_blocks"]} blocks: the least loss on {report["scored_on"]} '
      f'is by {_label(row)}: top-1 {row["after_removal"]:.2f} %'
    )
    random = [other['after_removal'] for other in rows if other['score'] == 'random']
    if random:
      line += f', at random {_spread(random)} %'
    if row['after_recovery']:
      recovered = float(np.mean(row['after_recovery']))
      lost = report['whole']['top1'] - recovered
      line += f'; recovered {recovered:.2f} %, {abs(lost):.2f} points '
      line += f'{"less" if lost > 0 else "more"} than the complete model'
      trained = [value for other in report['rows'] if not other['blocks_removed']
                 for value in other['after_recovery']]  # fmt: skip
      if trained:
        line += f' (which comes to {np.mean(trained):.2f} % when trained on as well)'
    lines.append(line)
  return ''.join(f'{line}\n' for line in lines)


def picture(report: Report) -> bytes:
  """Accuracy, after removal and after recovery, and costs, against the number of removed blocks.

  A score has one color and a column of its own in the group of each number, as scores often choose
  the same blocks. Hollow is one by one; dashes are single seeds, around their mean.
  """
  plt = pyplot()
  panels = {'after removal': 'after_removal'}
  if any(row['after_recovery'] for row in report['rows']):
    panels[f'after {report["recovery_steps"]} steps of recovery'] = 'after_recovery'
  counts, labels = list(_by_count(report)), _by_label(report['rows'])
  wide = max(_INCHES_PER_COLUMN * len(counts) * (len(labels) + 1), 4.2) + 0.8
  figure, axes = plt.subplots(
    1,
    len(panels) + 1,
    figsize=(wide * len(panels) + 4.6, 5.2),
    width_ratios=[wide] * len(panels) + [4.6],
    layout='constrained',
  )
  handles = {}
  for axis, (title, key) in zip(axes, panels.items(), strict=False):
    handles |= _draw_accuracy(axis, report, key)
    axis.set_title(title)
  _draw_cost(axes[-1], report)
  for axis in axes:
    axis.set_xlabel('blocks left out')
    axis.set_xticks(counts if axis is not axes[-1] else [0, *counts])
  about = f'scored on {report["scored_on"]}'
  title = f'{report["variant"]}, without the blocks of the lowest score; {about}'
  figure.suptitle(fitted(title, 90, 2))
  figure.legend(
    list(handles.values()), list(handles), loc='outside lower center', ncols=5, fontsize=9
  )
  return png_of(figure)


def _draw_accuracy(axis, report: Report, key: str) -> dict[str, Any]:
  """Draws the points of each label; returns them by label."""
  labels = _by_label(report['rows'])
  names = list(dict.fromkeys(label.removesuffix(_ONE_BY_ONE) for label in labels))
  counts = list(_by_count(report))
  handles = {'complete': axis.axhline(report['whole']['top1'], color='0.55', linewidth=1.2)}
  places = (np.arange(len(labels)) - (len(labels) - 1) / 2) / (len(labels) + 1)
  for place, (label, rows) in zip(places, labels.items(), strict=True):
    name = label.removesuffix(_ONE_BY_ONE)
    color = f'C{names.index(name)}'
    by_seed = [[row for row in rows if row['seed'] == seed] for seed in {r['seed'] for r in rows}]
    for same in by_seed if len(by_seed) > 1 else ():
      style = {'color': color, 'markersize': 7}
      (handles[f'{label}, single seeds'],) = axis.plot(*_means(same, key, place), '_', **style)
    face = color if name == label else 'white'
    (handles[label],) = axis.plot(
      *_means(rows, key, place), 'o', color=color, markerfacecolor=face, markersize=5
    )
  for left, right in itertools.pairwise(counts):
    axis.axvline((left + right) / 2, color='0.85', linewidth=0.8)
  axis.set_xlim(counts[0] - 0.55, counts[-1] + 0.55)
  axis.grid(alpha=0.3, axis='y')
  axis.set_ylabel(fitted(f'top-1 of {report["tested_on"]}, %', 45, 2))
  return handles


def _draw_cost(axis, report: Report) -> None:
  whole = report['whole']
  counts = {0: whole, **{count: rows[0] for count, rows in _by_count(report).items()}}
  # Parameters and FLOP are nearly the same share: a small marker in a large one.
  costs = {
    'parameters': ('s-', 10, 'white', lambda row: row['parameters'] / whole['parameters']),
    'FLOP': ('o--', 4, 'C1', lambda row: row['gflop'] / whole['gflop']),
    'latency': ('^-', 5, 'C2', lambda row: row['latency']['ratio']),
  }
  for name, (style, size, face, share) in costs.items():
    shares = [share(row) for row in counts.values()]
    axis.plot(list(counts), shares, style, ms=size, mfc=face, lw=1.2, label=name)
  axis.set_title(fitted(f'cost; {report["latency_batch"]} images on one {report["device"]}', 40, 2))
  axis.set_ylabel('share of the complete model')
  axis.set_ylim(0, max(1.1, axis.get_ylim()[1]))
  axis.grid(alpha=0.3)
  legend_below(axis, ncols=3)


def _means(rows: Sequence[Report], key: str, place: float) -> tuple[list[float], list[float]]:
  """Points of a label, moved to the right by `place`."""
  counts = sorted({row['removed'] for row in rows})
  values = {count: [row[key] for row in rows if row['removed'] == count] for count in counts}
  return [count + place for count in counts], [float(np.mean(values[count])) for count in counts]


def _by_count(report: Report) -> dict[int, list[Report]]:
  counts = sorted({row['removed'] for row in report['rows']})
  return {count: [row for row in report['rows'] if row['removed'] == count] for count in counts}


def _by_label(rows: Sequence[Report]) -> dict[str, list[Report]]:
  labels = dict.fromkeys(map(_label, rows))
  return {label: [row for row in rows if _label(row) == label] for label in labels}


def _label(row: Report) -> str:
  return row['score'] + (_ONE_BY_ONE if row['way'] == 'one_by_one' else '')


def _costs(row: Report) -> tuple[str, str, str]:
  return f'{row["parameters"]:,}', f'{row["gflop"]:.4g}', f'{row["latency"]["ratio"]:.2f}'


def _spread(values: Sequence[float]) -> str:
  """Text of a mean: '95.20', or '95.20 ± 1.31' of several values; '' of none."""
  return text_tables.with_deviation(*mean_deviation(values)) if values else ''
