"""What a CKA study has found: figures, a table in words and pictures, of one matrix a kernel."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis.cka import MinibatchCKA
from mixer_jax.analysis.hsic import Method
from mixer_jax.analysis.identification import Identification, identify
from mixer_jax.commands import likeness
from mixer_jax.commands.study import curve
from mixer_jax.evaluation.probe import LayerProbe
from mixer_jax.reporting import comparisons, heatmaps
from mixer_jax.reporting.heatmaps import Panel

KINDS = {
  'itself': 'each model with itself',
  'seeds': 'between seeds',
  'untrained_seeds': 'between seeds, before training',
  'untrained': 'trained, with its own start',
  'models': 'between models of other depth, width or data',
}


@dataclasses.dataclass(frozen=True)
class Member:
  """A run as it ended, or as it began."""

  model: str
  seed: int
  is_trained: bool
  folder: str
  data: str
  """What it was trained on."""
  config: models.ModelConfig
  layers: list[str]
  params: dict

  @property
  def state(self) -> str:
    return 'trained' if self.is_trained else 'untrained'

  @property
  def name(self) -> str:
    return f'{self.model}/{self.seed}' + ('' if self.is_trained else ' untrained')


def pairs(members: Sequence[Member]) -> Iterator[tuple[str, Member, Member]]:
  """(kind, x, y) of what a study compares; between models, those of the first seed."""
  firsts: dict[str, int] = {}
  for member in members:
    firsts.setdefault(member.model, member.seed)
  for x, y in itertools.combinations_with_replacement(members, 2):
    first = x.seed == firsts[x.model] and y.seed == firsts[y.model]
    if x is y:
      if x.is_trained and first:
        yield 'itself', x, y
    elif x.model != y.model:
      if x.is_trained and y.is_trained and first:
        yield 'models', x, y
    elif x.seed == y.seed:
      yield 'untrained', x, y
    elif x.is_trained and y.is_trained:
      yield 'seeds', x, y
    elif not x.is_trained and not y.is_trained:
      yield 'untrained_seeds', x, y


def report(
  members: Sequence[Member],
  totals: Mapping[str, MinibatchCKA],
  probes: Mapping[str, list[LayerProbe]],
  methods: Mapping[str, Method],
  data: str,
) -> dict[str, Any]:
  """What `cka_study.json` holds: the models, and for each kernel each pair's identification."""
  told: dict[str, Any] = {'data': data, 'runs': {}, 'kernels': {}}
  for member in members:
    if member.is_trained:
      evaluations = curve(member.folder)
      told['runs'][member.name] = {
        'model': member.model,
        'seed': member.seed,
        'variant': models.variant_of(member.config),
        'blocks': member.config.num_blocks,
        'parameters': models.num_params(member.config),
        'trained_on': member.data,
        'layers': member.layers,
        'steps': max(evaluations),
        'top1': evaluations[max(evaluations)],
        'probes': {},
      }
  for member in members:
    run = told['runs'][f'{member.model}/{member.seed}']
    run['probes'][member.state] = [dataclasses.asdict(row) for row in probes[member.name]]
  for kernel, total in totals.items():
    matrix = total.result()
    told |= {'images': total.images, 'batches': total.batches}
    told['kernels'][kernel] = {
      'method': likeness.in_words(methods[kernel]),
      'noise': likeness.noise_of(total.standard_error(), total.batches),
      'comparisons': [
        {'kind': kind, 'x': x.name, 'y': y.name, **_figures(_block(matrix, members, x, y))}
        for kind, x, y in pairs(members)
      ],
    }
  return told


def npz(members: Sequence[Member], totals: Mapping[str, MinibatchCKA]) -> bytes:
  """For each kernel the whole matrix and its standard error, and the name of each row."""
  arrays = {}
  for kernel, total in totals.items():
    arrays |= {kernel: total.result(), f'{kernel}_standard_error': total.standard_error()}
  names = [f'{member.name}: {layer}' for member in members for layer in member.layers]
  return likeness.npz_of(names=names, **arrays)


def pictures(
  members: Sequence[Member], totals: Mapping[str, MinibatchCKA], told: Mapping[str, Any]
) -> dict[str, bytes]:
  """File name -> PNG: heatmaps for each kind of comparison and kernel, and the probes."""
  drawn = {}
  for kernel, total in totals.items():
    matrix, of_kernel = total.result(), told['kernels'][kernel]
    for kind, title in KINDS.items():
      panels = []
      for found, x, y in pairs(members):
        if found == kind:
          block = _block(matrix, members, x, y)
          there = identify(block)
          panels.append(Panel(block, _in_short(there), (x.name, y.name), there.nearest))
      if panels:
        words = (
          f'CKA {title}: {of_kernel["method"]}; {total.images:,} images of {told["data"]}\n'
          f'{of_kernel["noise"]}; rings: the most similar layer to the right of each one going up'
        )
        drawn[f'{kind}_{kernel}.png'] = heatmaps.heatmaps(panels, words)
  lines = {}
  for run in told['runs'].values():
    for state, rows in run['probes'].items():
      blocks = [row['top1'] for row in rows if row['layer'].startswith('block_')]
      places = [(i + 1) / len(blocks) for i in range(len(blocks))]
      seeds = lines.setdefault((run['model'], state == 'trained'), [])
      seeds.append(dict(zip(places, blocks, strict=True)))
  drawn['probes.png'] = comparisons.by_depth(lines, f'linear probe, top-1 of {told["data"]}, %')
  return drawn


def table(told: Mapping[str, Any]) -> str:
  """A line for each kernel and model of how well its blocks are identified, and its probes."""
  lines = [
    f'{"kernel":7} {"model":14} {"seeds":>9} {"untrained":>10} {"chance":>7}  percent identified'
  ]
  names = list(dict.fromkeys(run['model'] for run in told['runs'].values()))
  for kernel, found in told['kernels'].items():
    for model in names:
      shares = [
        _mean_accuracy(found['comparisons'], kind, model) for kind in ('seeds', 'untrained_seeds')
      ]
      own = next(run for run in told['runs'].values() if run['model'] == model)
      chance = 100 / len(own['layers'])
      lines.append(f'{kernel:7} {model:14} {shares[0]:>9} {shares[1]:>10} {chance:7.1f}')
  lines.append(
    f'{"model/seed":22} {"top-1":>7} {"probe: first, middle, last block":>34}   untrained'
  )
  for name, run in told['runs'].items():
    trained, untrained = (_three(run['probes'][state]) for state in ('trained', 'untrained'))
    lines.append(f'{name:22} {run["top1"]:7.2f} {trained:>34}   {untrained}')
  return '\n'.join(lines) + '\n'


def _three(rows: Sequence[Mapping[str, Any]]) -> str:
  blocks = [row['top1'] for row in rows if row['layer'].startswith('block_')]
  return ' '.join(f'{blocks[i]:6.2f}' for i in (0, len(blocks) // 2, -1))


def _mean_accuracy(found: Sequence[Mapping[str, Any]], kind: str, model: str) -> str:
  """Over pairs of seeds and both ways."""
  own = [one for one in found if one['kind'] == kind and one['x'].startswith(f'{model}/')]
  if not own:
    return '–'
  return f'{np.mean([one[way]["accuracy"] for one in own for way in ("there", "back")]):.1f}'


def _figures(block: np.ndarray) -> dict[str, Any]:
  there, back = identify(block), identify(block.T)
  return {
    'there': _plain(there),
    'back': _plain(back),
    'cka': [list(map(_number, r)) for r in block],
  }


def _plain(found: Identification) -> dict[str, Any]:
  told = dataclasses.asdict(found)
  return told | {'nearest': list(found.nearest), 'depth_error': _number(found.depth_error)}


def _number(value: float) -> float | None:
  """JSON knows no NaN."""
  return round(float(value), 5) if math.isfinite(value) else None


def _in_short(found: Identification) -> str:
  if found.accuracy is not None:
    return f'identified {found.accuracy:.0f} % (chance {found.chance:.0f} %)'
  return f'off by {100 * found.depth_error:.0f} % of the depth'


def _block(matrix: np.ndarray, members: Sequence[Member], x: Member, y: Member) -> np.ndarray:
  """The part of the whole matrix that compares two members."""
  ends = list(itertools.accumulate((len(member.layers) for member in members), initial=0))
  rows, columns = (
    slice(ends[place], ends[place + 1])
    for place in (next(i for i, member in enumerate(members) if member is one) for one in (x, y))
  )
  return matrix[rows, columns]
