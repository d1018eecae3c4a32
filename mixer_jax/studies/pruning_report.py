"""What `mixer-jax prune` found: a table, a sentence for each number of blocks, and a picture."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax.pictures.run_pictures import png_of, pyplot

Report = Mapping[str, Any]
"""What `prune.json` holds."""

_BESIDE = ', one by one'


def table(report: Report) -> str:
  """A line for each number of blocks that go and each score; means ± deviation over seeds."""
  whole = report['whole']
  head = ('blocks left out', 'by', 'top-1 after, %', 'recovered, %', 'parameters', 'GFLOP', 'time')
  widths = (18, 28, 15, 15, 12, 8, 6)
  top1, recovered = f'{whole["top1"]:.2f}', _spread(whole['after_recovery'])
  lines = [head, ('none', '', top1, recovered, *_costs(whole))]
  for count, rows in _by_count(report).items():
    for label, same in _by_label(rows).items():
      gone = ','.join(map(str, same[0]['blocks_removed'])) if len(same) == 1 else f'any {count}'
      after = _spread([row['after_removal'] for row in same])
      recovered = _spread([value for row in same for value in row['after_recovery']])
      lines.append((gone, label, after, recovered, *_costs(same[0])))
  return ''.join(
    ' '.join(f'{cell:<{w}}' if i < 2 else f'{cell:>{w}}' for i, (cell, w) in enumerate(cells))
    + '\n'
    for cells in (tuple(zip(line, widths, strict=True)) for line in lines)
  )


def verdict(report: Report) -> str:
  """For each number of blocks: how what fits the scored images best did on the tested ones."""
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
      line += 'less than whole' if lost > 0 else 'more than whole' if lost < 0 else 'from whole'
      trained = [value for other in report['rows'] if not other['blocks_removed']
                 for value in other['after_recovery']]  # fmt: skip
      if trained:
        line += f' (whole and trained as much {np.mean(trained):.2f} %)'
    lines.append(line)
  return ''.join(f'{line}\n' for line in lines)


def picture(report: Report) -> bytes:
  """Accuracy against the blocks that go, after removal and after recovery, and what they cost.

  A score has one color; dashed is one by one, thin lines are single seeds under their mean.
  """
  plt = pyplot()
  panels = {'after removal': 'after_removal'}
  if any(row['after_recovery'] for row in report['rows']):
    panels[f'after {report["recovery_steps"]} steps of recovery'] = 'after_recovery'
  figure, axes = plt.subplots(
    1, len(panels) + 1, figsize=(4.9 * (len(panels) + 1), 5.0), layout='constrained'
  )
  handles = {}
  for axis, (title, what) in zip(axes, panels.items(), strict=False):
    handles |= _draw_accuracy(axis, report, what)
    axis.set_title(title)
  _draw_cost(axes[-1], report)
  counts = list(_by_count(report))
  for axis in axes:
    axis.set_xlabel('blocks left out')
    axis.set_xticks(counts if axis is not axes[-1] else [0, *counts])
    axis.grid(alpha=0.3)
  blocks, about = report['model']['num_blocks'], f'scored on {report["scored_on"]}'
  figure.suptitle(f'a Mixer of {blocks} blocks, without those of the lowest score; {about}')
  figure.legend(
    list(handles.values()), list(handles), loc='outside lower center', ncols=6, fontsize=9
  )
  return png_of(figure)


def _draw_accuracy(axis, report: Report, what: str) -> dict[str, Any]:
  """Line by label."""
  labels = _by_label(report['rows'])
  names = list(dict.fromkeys(label.removesuffix(_BESIDE) for label in labels))
  handles = {'whole': axis.axhline(report['whole']['top1'], color='0.55', linewidth=1.2)}
  # Beside each other: scores often choose the same blocks.
  places = 0.035 * (np.arange(len(labels)) - (len(labels) - 1) / 2)
  for place, (label, rows) in zip(places, labels.items(), strict=True):
    name = label.removesuffix(_BESIDE)
    style = {'color': f'C{names.index(name)}', 'linestyle': '-' if name == label else '--'}
    by_seed = [[row for row in rows if row['seed'] == seed] for seed in {r['seed'] for r in rows}]
    for same in by_seed if len(by_seed) > 1 else ():
      axis.plot(*_means(same, what, place), **style, linewidth=0.6, alpha=0.5)
    (handles[label],) = axis.plot(
      *_means(rows, what, place), **style, marker='o', markersize=4, linewidth=1.4, alpha=0.85
    )
  axis.set_ylabel(f'top-1 of {report["tested_on"]}, %')
  return handles


def _draw_cost(axis, report: Report) -> None:
  whole = report['whole']
  counts = {0: whole, **{count: rows[0] for count, rows in _by_count(report).items()}}
  costs = {
    'parameters': ('s', lambda row: row['parameters'] / whole['parameters']),
    'FLOP': ('o', lambda row: row['gflop'] / whole['gflop']),
    'latency': ('^', lambda row: row['latency']['ratio']),
  }
  for name, (marker, share) in costs.items():
    shares = [share(row) for row in counts.values()]
    axis.plot(list(counts), shares, marker=marker, ms=5, lw=1.2, label=name)
  axis.set_title(f'cost; {report["latency_batch"]} images on one {report["device"]}')
  axis.set_ylabel('share of the whole Mixer')
  axis.set_ylim(0, 1.1)
  axis.legend(loc='lower left')


def _means(rows: Sequence[Report], what: str, place: float) -> tuple[list[float], list[float]]:
  """Points of a curve, moved to the right by `place`."""
  counts = sorted({row['removed'] for row in rows})
  values = {count: [row[what] for row in rows if row['removed'] == count] for count in counts}
  return [count + place for count in counts], [float(np.mean(values[count])) for count in counts]


def _by_count(report: Report) -> dict[int, list[Report]]:
  counts = sorted({row['removed'] for row in report['rows']})
  return {count: [row for row in report['rows'] if row['removed'] == count] for count in counts}


def _by_label(rows: Sequence[Report]) -> dict[str, list[Report]]:
  labels = dict.fromkeys(map(_label, rows))
  return {label: [row for row in rows if _label(row) == label] for label in labels}


def _label(row: Report) -> str:
  return row['score'] + (_BESIDE if row['way'] == 'one_by_one' else '')


def _costs(row: Report) -> tuple[str, str, str]:
  return f'{row["parameters"]:,}', f'{row["gflop"]:.4g}', f'{row["latency"]["ratio"]:.2f}'


def _spread(values: Sequence[float]) -> str:
  """'95.20', or '95.20 ± 1.31' of several; '' of none."""
  if not values:
    return ''
  return f'{np.mean(values):.2f}' + (f' ± {np.std(values, ddof=1):.2f}' if len(values) > 1 else '')
