"""All pictures of the project, each in its usual situation and in extreme ones."""

import functools
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from mixer_jax.pictures import (
  attention_pictures,
  comparisons,
  contact_sheets,
  heatmaps,
  mosaics,
  run_pictures,
)
from mixer_jax.pictures.contact_sheets import Band
from mixer_jax.pictures.heatmaps import Panel
from mixer_jax.studies import permutation_report, pruning_report, scaling_report
from tests.helpers.train_runs import ROOT

RESULTS = ROOT / 'benchmarks' / 'results'
LONG = 'a/very/long/folder/of/experiments/on/one/machine/' * 2 + 'mixer-b16-lr0.003-seed0'
FOREIGN = 'größte Übung, naïve façade: $x_1$'
NAN = float('nan')


@functools.cache
def results(name: str) -> Any:
  """Content of a file of benchmarks/results."""
  return json.loads((RESULTS / f'{name}.json').read_text())


def images(count: int) -> list[np.ndarray]:
  """Random images of several shapes."""
  random = np.random.default_rng(0)
  return [random.integers(0, 256, (8 + i % 3, 8, 3), dtype=np.uint8) for i in range(count)]


def curve_rows(steps: int, *, evals: int = 0, few: bool = False, best: int = 0, data='digits'):
  """Rows of metrics.jsonl."""
  rows: list[dict[str, Any]] = []
  for step in range(1, steps + 1):
    loss = 2.3 * np.exp(-3 * step / max(steps, 30)) + 0.02
    rows.append({
      'step': step, 'loss': loss, 'accuracy': 1 - loss / 2.5,
      'learning_rate': 3e-3 * (1 - step / (steps + 1)),
    })  # fmt: skip
  for step in np.linspace(1, steps, evals + 1).astype(int)[1:]:
    share = float(step) / steps
    rows.append({'event': 'eval', 'step': int(step), 'loss': 1.5 - share, 'top1': 90 * share})
    if few:
      values = {f'{shots}-shot': 80 * share - 20 / shots for shots in (1, 5, 25)}
      rows.append({'event': 'fewshot', 'step': int(step), 'data': f'{data}/test', **values})
  if best:
    rows.append({'event': 'end', 'step': steps, 'best_step': best})
  return rows


def plan_report(topology: str, devices: int, hours: float) -> dict[str, Any]:
  """The fields of a plan's report that are drawn."""
  return {
    'topology': topology,
    'devices': devices,
    'hours': hours,
    'core_days': hours * devices / 24,
  }


def matrix(rows: int, columns: int) -> np.ndarray:
  """CKA as it looks: high near the diagonal."""
  x, y = np.arange(rows)[:, None] / rows, np.arange(columns)[None] / columns
  return np.exp(-6 * np.abs(x - y))


def half_known(size: int) -> np.ndarray:
  """A matrix with a row and a column that have no value."""
  values = matrix(size, size)
  values[0] = values[:, 0] = NAN
  return values


def pruned(**changes: Any) -> dict[str, Any]:
  return {**results('prune_digits'), **changes}


def _plain_prune() -> bytes:
  """One number of blocks, one score, no recovery."""
  report = results('prune_digits')
  row = {**report['rows'][0], 'after_recovery': []}
  return pruning_report.picture({**report, 'rows': [row]})


def distance_by_depth(blocks: int, heads: int) -> np.ndarray:
  """Attention distances as they look: the deeper, the farther."""
  depth = np.arange(blocks)[:, None] / blocks
  random = np.random.default_rng(0).uniform(5, 100, (blocks, heads))
  return 95 * depth + random * (1 - depth)


def tiles(rows: int, columns: int, side: int) -> np.ndarray:
  """Maps of numbers in [0, 1]."""
  return np.random.default_rng(0).uniform(size=(rows, columns, side, side))


LAYERS = [f'block_{i}/{part}' for i in range(12) for part in ('token_mixing', 'channel_mixing')]

CASES: dict[str, Callable[[], bytes]] = {
  'curves usual': lambda: run_pictures.curves(curve_rows(200, evals=5, few=True, best=160)),
  'curves one row': lambda: run_pictures.curves(curve_rows(1)),
  'curves one row, one evaluation': lambda: run_pictures.curves(curve_rows(1, evals=1)),
  'curves few': lambda: run_pictures.curves(curve_rows(3, evals=1, few=True, best=3)),
  'curves no row': lambda: run_pictures.curves([]),
  'curves long names': lambda: run_pictures.curves(
    curve_rows(50, evals=5, few=True, data=f'{FOREIGN} {LONG}')
  ),
  'curves equal': lambda: run_pictures.curves(
    [{'step': i, 'loss': 0.0, 'accuracy': 1.0, 'learning_rate': 0.0} for i in (10**6, 2 * 10**6)]
  ),
  'curves small range': lambda: run_pictures.curves(
    [
      {'step': i, 'loss': 2.3026 - 1e-5 * i, 'accuracy': 0.1, 'learning_rate': 3e-3}
      for i in range(1, 6)
    ]
  ),
  'curves NaN': lambda: run_pictures.curves(
    [
      {'step': i, 'loss': NAN if i > 2 else 5.0**i, 'accuracy': 0.1, 'learning_rate': 1e-3}
      for i in range(1, 5)
    ]
  ),
  'predictions usual': lambda: run_pictures.predictions(
    images(32), np.arange(32) % 3, np.arange(32) % 2, np.linspace(0, 1, 32), ['0', '1', '2']
  ),
  'predictions one': lambda: run_pictures.predictions(
    images(1), np.array([0]), np.array([0]), np.array([1.0]), ['a']
  ),
  'predictions long names': lambda: run_pictures.predictions(
    images(4),
    np.arange(4) % 3,
    np.arange(4) % 2,
    np.linspace(0, 1, 4),
    ['great white shark, white shark, man-eater, Carcharodon carcharias', FOREIGN, LONG],
  ),
  'costs usual': lambda: run_pictures.costs(
    [plan_report(f'v3:{n}', n, 4000 / n + 1) for n in (8, 32, 128, 512)]
    + [plan_report(f'v4:{n}', n, 1500 / n + 1) for n in (8, 32, 128, 512)]
  ),
  'costs one': lambda: run_pictures.costs([plan_report('v3:2x2', 8, 12.3456)]),
  'costs equal': lambda: run_pictures.costs(
    [plan_report(f'v{i}:2x2', 8 + i % 2, 5.0) for i in range(2, 7)]
  ),
  'costs large': lambda: run_pictures.costs(
    [plan_report(f'v5e:{n}', n, 123456.789 / n) for n in (1, 4, 8, 16, 32, 64, 128, 256)]
  ),
  'costs waiting': lambda: run_pictures.costs(
    [{**plan_report('v3:2x2', 8, 50.0), 'input': {'keeps_up': True, 'hours': 1, 'core_days': 1}}]
    + [
      {
        **plan_report(f'v3:{n}', n, 400 / n),
        'input': {'keeps_up': False, 'hours': 900 / n, 'core_days': 900 / 24},
      }
      for n in (32, 128)
    ]
  ),
  'heatmap usual': lambda: heatmaps.heatmap(
    matrix(24, 24), LAYERS, LAYERS, 'CKA, 360 images', ('build/digits', 'build/digits_1')
  ),
  'heatmap undefined': lambda: heatmaps.heatmap(
    half_known(8), LAYERS[:8], LAYERS[:8], 'CKA', ('one', 'other')
  ),
  'heatmap marked': lambda: heatmaps.heatmap(
    matrix(12, 12),
    LAYERS[:12],
    LAYERS[:12],
    'identified 80 %',
    ('one', 'other'),
    marked=[0, 1, 2, 3, 3, 5, -1, 7, 8, 9, 11, 11],
  ),
  'heatmap one': lambda: heatmaps.heatmap(
    np.array([[1.0]]), LAYERS[:1], LAYERS[:1], 'CKA', ('one', 'other'), marked=[0]
  ),
  'heatmap large': lambda: heatmaps.heatmap(
    matrix(300, 20),
    [f'block_{i}/channel_mixing/hidden' for i in range(300)],
    [f'block_{i}/{FOREIGN}' for i in range(20)],
    f'{LONG} {LONG}\n{FOREIGN}',
    (LONG, FOREIGN),
  ),
  'heatmaps usual': lambda: heatmaps.heatmaps(
    [Panel(matrix(8, 8), f'identified {i} %', ('a/0', 'a/1'), list(range(8))) for i in range(6)],
    'CKA between seeds: unbiased\n360 images',
  ),
  'heatmaps one': lambda: heatmaps.heatmaps([Panel(half_known(3), 'one', ('a', 'b'), None)], 'CKA'),
  'heatmaps long names': lambda: heatmaps.heatmaps(
    [Panel(half_known(40), f'identified 5 % {FOREIGN}', (LONG, FOREIGN), None)] * 5,
    f'{LONG} {LONG}',
  ),
  'comparison usual': lambda: permutation_report.picture(results('permutation_digits')),
  'comparison one': lambda: comparisons.comparison({'mixer': {'x': [{1: 50.0}]}}, 'top-1, %'),
  'comparison long names': lambda: comparisons.comparison(
    {
      LONG: {FOREIGN: [{1: 1.0, 2: 99.0}, {1: 3.0, 2: 98.0}], LONG: [{1: 50.0, 2: 50.0}]},
      FOREIGN: {'x': [{1: 100.0, 2: 0.0}]},
    },
    f'top-1 of {LONG}, %',
  ),
  'comparison falling': lambda: comparisons.comparison(
    {'loss': {'a': [{i: 100.0 - i for i in range(100)}], 'b': [dict.fromkeys(range(100), 5.0)]}},
    'loss',
  ),
  'comparison NaN': lambda: comparisons.comparison(
    {'loss': {'a': [{1: NAN, 2: NAN}], 'b': [{1: 1.0, 2: NAN}]}}, 'loss'
  ),
  'by depth usual': lambda: comparisons.by_depth(
    {
      (f'blocks_{blocks}', trained): [
        {(i + 1) / blocks: 90 * trained + 10 - 40 / (i + 1) for i in range(blocks)}
      ]
      for blocks in (4, 8, 12)
      for trained in (True, False)
    },
    'linear probe, top-1 of digits, %',
  ),
  'by depth one': lambda: comparisons.by_depth({('a', True): [{1.0: 50.0}]}, 'top-1, %'),
  'by depth long names': lambda: comparisons.by_depth(
    {
      (name, trained): [{0.5: 50.0, 1.0: 50.0}]
      for name in (LONG, FOREIGN)
      for trained in (True, False)
    },
    f'top-1 of {LONG}, %',
  ),
  'scaling usual': lambda: scaling_report.picture(results('scaling_digits')),
  'scaling one': lambda: comparisons.scaling({'a': {14: [50.0]}}, {14: '1 %'}, 'top-1, %'),
  'scaling near': lambda: comparisons.scaling(
    {FOREIGN: {n: [float(n % 7), 1.0] for n in range(1000, 1300, 20)}},
    {n: f'{n / 13:.3g} %' for n in range(1000, 1300, 20)},
    'top-1, %',
  ),
  'scaling long names': lambda: comparisons.scaling(
    {LONG: {100: [50.0], 1000: [90.0]}, FOREIGN: {100: [90.0], 1000: [50.0]}},
    {100: '10 %', 1000: '100 %'},
    f'top-1 of {LONG}, %',
  ),
  'by value usual': lambda: comparisons.by_value(
    {
      'digits/train[80%:]': {0: [77.0, 78.7], 1: [63.1, 50.0], 2: [18.1, 9.0]},
      'digits/test': {0: [76.1, 80.2], 1: [57.2, 55.0], 2: [28.3, 10.2]},
    },
    ['0.003', '0.03', '0.3'],
    'optimizer.learning_rate',
    'top-1, %',
    best=0,
  ),
  'by value one': lambda: comparisons.by_value({'a': {0: [50.0]}}, ['1'], 'seed', 'loss', None),
  'by value long names': lambda: comparisons.by_value(
    {f'optimizer.name={LONG}': {i: [50.0] for i in range(9)}, FOREIGN: {8: [NAN]}},
    [f'{i}{LONG}' for i in range(9)],
    f'init_from {LONG}',
    f'top-1, % of {LONG}',
    best=8,
  ),
  'by value many': lambda: comparisons.by_value(
    {'a': {i: [float(i)] for i in range(40)}},
    [f'{0.001 * i:.3f}' for i in range(40)],
    'optimizer.weight_decay',
    'top-1, %',
    best=39,
  ),
  'prune usual': lambda: pruning_report.picture(results('prune_digits')),
  'prune one': _plain_prune,
  'prune long names': lambda: pruning_report.picture(
    pruned(tested_on=f'{LONG}/test', scored_on=f'{LONG}/train', device='NVIDIA H100 80GB HBM3')
  ),
  'mosaics usual': lambda: mosaics.mosaics(
    {f'block {i}\n32 units': np.random.default_rng(i).normal(size=(32, 4, 4)) for i in range(3)},
    'token mixing of build/digits\nfrom low to high frequency',
    paired=True,
  ),
  'mosaics one': lambda: mosaics.mosaics({'a': np.zeros((1, 4, 4))}, 'one', paired=False),
  'mosaics long names': lambda: mosaics.mosaics(
    {
      f'{FOREIGN} {LONG}': np.ones((2, 4, 4)),
      f'block 1: {LONG}': np.full((300, 14, 14), NAN),
    },
    LONG,
    paired=False,
  ),
  'attention usual': lambda: attention_pictures.distances(
    distance_by_depth(12, 3), 'ViT-Ti/16 of build/vit, 128 images of digits/test', 224, 117.0
  ),
  'attention large': lambda: attention_pictures.distances(
    distance_by_depth(32, 16), f'ViT-H/14 of {LONG}, 128 images of {FOREIGN}', 518, 270.0
  ),
  'attention many heads': lambda: attention_pictures.distances(
    distance_by_depth(100, 48), LONG, 224, 117.0
  ),
  'attention one': lambda: attention_pictures.distances(np.zeros((1, 1)), 'one', 16, 0.0),
  'class token usual': lambda: attention_pictures.class_token(tiles(12, 3, 14), 'ViT-Ti/16'),
  'class token large': lambda: attention_pictures.class_token(
    tiles(32, 16, 37), f'ViT-H/14 of {LONG}, 128 images of {FOREIGN}'
  ),
  'class token one': lambda: attention_pictures.class_token(np.zeros((1, 1, 1, 1)), LONG),
  'positions usual': lambda: attention_pictures.position_similarity(
    2 * tiles(7, 7, 7) - 1, 'build/vit\nposition embeddings of 7×7 patches'
  ),
  'positions large': lambda: attention_pictures.position_similarity(tiles(48, 48, 48), LONG),
  'positions one': lambda: attention_pictures.position_similarity(np.ones((1, 1, 1, 1)), FOREIGN),
  'positions NaN': lambda: attention_pictures.position_similarity(np.full((2,) * 4, NAN), LONG),
  'contact sheet usual': lambda: contact_sheets.contact_sheet(
    [
      Band(
        'training',
        [[(f'image {i}', [('as read', a), ('crop', a)]) for i, a in enumerate(images(3))]],
      ),
      Band('evaluation', [[('image 0', [('as read', images(1)[0])])]]),
    ]
  ),
  'contact sheet one': lambda: contact_sheets.contact_sheet(
    [Band('x', [[('', [('', images(1)[0])])]])]
  ),
  'contact sheet long names': lambda: contact_sheets.contact_sheet(
    [Band(LONG, [[(LONG, [(LONG, a), (FOREIGN, a)]) for a in images(2)]])]
  ),
}

FAST = (
  *('curves one row', 'curves few', 'predictions long names', 'costs usual', 'costs large'),
  *('heatmap undefined', 'heatmap marked', 'comparison long names', 'by depth long names'),
  *(
    'scaling near',
    'by value long names',
    'prune usual',
    'mosaics long names',
    'contact sheet long names',
    'attention large',
    'class token one',
  ),
)
"""Cases that every test run draws; the others are for the long one."""
