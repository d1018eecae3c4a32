"""Tables and pictures of `mixer-jax cka-study`, from what `cka_study.json` holds."""

import itertools
from collections.abc import Mapping
from typing import Any

import numpy as np

from mixer_jax.pictures import comparisons, heatmaps, text_tables
from mixer_jax.pictures.heatmaps import Panel

KINDS = {
  'itself': 'each model with itself',
  'seeds': 'between seeds',
  'untrained_seeds': 'between seeds, before training',
  'untrained': 'trained, with its own start',
  'models': 'between models of other depth, width or data',
}


def text(values: Mapping[str, Any]) -> str:
  """Shares of identified blocks of each model, and accuracies of runs and probes."""
  percent = lambda share: '–' if share is None else f'{share:.1f}'
  identified = [
    (row['kernel'], row['model'], *(percent(row[name]) for name in _SHARES))
    for row in values['identified']
  ]
  probed = [
    (name, f'{run["top1"]:.2f}', *(_three(values['probes'][state][name]) for state in _STATES))
    for name, run in values['runs'].items()
  ]
  return (
    'layers identified in another seed, percent: the mean over pairs, both ways\n'
    + text_tables.aligned(('kernel', 'model', *_SHARES), identified, left=2)
    + 'top-1 of runs, and of probes after the first, the middle and the last block\n'
    + text_tables.aligned(('model/seed', 'run', *(f'probes, {state}' for state in _STATES)), probed)
  )


_SHARES = ('trained', 'untrained', 'chance')
_STATES = ('trained', 'untrained')


def files(values: Mapping[str, Any]) -> dict[str, bytes]:
  """File name -> PNG: heatmaps for each kind of comparison and kernel, and the probes."""
  drawn = {}
  for kernel, of_kernel in values['kernels'].items():
    for kind, title in KINDS.items():
      panels = [_panel(one) for one in of_kernel['comparisons'] if one['kind'] == kind]
      if panels:
        caption = (
          f'CKA {title}: {of_kernel["method"]}; {values["images"]:,} images of {values["data"]}\n'
          f'{of_kernel["noise"]}'
        )
        drawn[picture_name(kind, kernel)] = heatmaps.heatmaps(panels, caption)
  return drawn | {'probes.png': _probes(values)}


def picture_name(kind: str, kernel: str) -> str:
  """File name of the heatmaps of a kind of comparison."""
  return f'{kind}_{kernel}.png'


def _panel(comparison: Mapping[str, Any]) -> Panel:
  matrix = np.array(comparison['cka'], float)  # None becomes NaN
  there = comparison['there']
  if there['accuracy'] is not None:
    title = f'identified {there["accuracy"]:.0f} % (chance {there["chance"]:.0f} %)'
  else:
    error = np.nan if there['depth_error'] is None else there['depth_error']
    title = f'off by {100 * error:.0f} % of the depth'
  return Panel(matrix, title, (comparison['x'], comparison['y']), there['nearest'])


def _probes(values: Mapping[str, Any]) -> bytes:
  """Accuracy of probes against the depth, a line for each model, trained and untrained."""
  lines: dict[tuple[str, bool], list[dict[float, float]]] = {}
  for state, name in itertools.product(_STATES, values['runs']):
    blocks = _of_blocks(values['probes'][state][name])
    depths = [(i + 1) / len(blocks) for i in range(len(blocks))]
    seeds = lines.setdefault((values['runs'][name]['model'], state == 'trained'), [])
    seeds.append(dict(zip(depths, blocks, strict=True)))
  return comparisons.by_depth(lines, f'linear probe, top-1 of {values["data"]}, %')


def _of_blocks(tops: Mapping[str, float]) -> list[float]:
  return [top1 for layer, top1 in tops.items() if layer.startswith('block_')]


def _three(tops: Mapping[str, float]) -> str:
  blocks = _of_blocks(tops)
  return ' '.join(f'{blocks[i]:6.2f}' for i in (0, len(blocks) // 2, -1))
