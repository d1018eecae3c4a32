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
from mixer_jax.evaluation.probe import LayerProbe
from mixer_jax.pictures import comparisons, heatmaps
from mixer_jax.pictures.heatmaps import Panel
from mixer_jax.runs import similarity
from mixer_jax.runs.npz import npz_bytes
from mixer_jax.studies.study import curve

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
  def run(self) -> str:
    return f'{self.model}/{self.seed}'

  @property
  def name(self) -> str:
    return self.run + ('' if self.is_trained else ' untrained')


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
  """What `cka_study.json` holds: runs, probes, and for each kernel what compares all pairs."""
  told: dict[str, Any] = {'data': data, 'identified': [], 'probes': {}, 'runs': {}, 'kernels': {}}
  for member in members:
    tops = {row.layer: row.top1 for row in probes[member.name]}
    told['probes'].setdefault(member.state, {})[member.run] = tops
    if member.is_trained:
      evaluations = curve(member.folder)
      told['runs'][member.run] = {
        'model': member.model,
        'seed': member.seed,
        'variant': models.variant_of(member.config),
        'parameters': models.num_params(member.config),
        'trained_on': member.data,
        'steps': max(evaluations),
        'top1': evaluations[max(evaluations)],
      }
  for kernel, total in totals.items():
    matrix = total.result()
    told |= {'images': total.images, 'batches': total.batches}
    comparisons = [
      {'kind': kind, 'x': x.name, 'y': y.name, **_figures(_block(matrix, members, x, y))}
      for kind, x, y in pairs(members)
    ]
    told['kernels'][kernel] = {
      'method': str(methods[kernel]),
      'noise': similarity.describe_noise(total.standard_error(), total.batches),
      'comparisons': comparisons,
    }
    for model, layers in {member.model: member.layers for member in members}.items():
      accuracies = {
        name: _mean_accuracy(comparisons, kind, model)
        for name, kind in (('trained', 'seeds'), ('untrained', 'untrained_seeds'))
      }
      row = {'kernel': kernel, 'model': model, **accuracies, 'chance': 100 / len(layers)}
      told['identified'].append(row)
  return told


def npz(members: Sequence[Member], totals: Mapping[str, MinibatchCKA]) -> bytes:
  """For each kernel the whole matrix and its standard error, and the name of each row."""
  arrays = {}
  for kernel, total in totals.items():
    arrays |= {kernel: total.result(), f'{kernel}_standard_error': total.standard_error()}
  names = [f'{member.name}: {layer}' for member in members for layer in member.layers]
  return npz_bytes(names=names, **arrays)


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
          f'{of_kernel["noise"]}\nrings: the layer to the right that is most like each one going up'
        )
        drawn[f'{kind}_{kernel}.png'] = heatmaps.heatmaps(panels, words)
  lines = {}
  for state, of_runs in told['probes'].items():
    for name, tops in of_runs.items():
      blocks = _of_blocks(tops)
      places = [(i + 1) / len(blocks) for i in range(len(blocks))]
      seeds = lines.setdefault((told['runs'][name]['model'], state == 'trained'), [])
      seeds.append(dict(zip(places, blocks, strict=True)))
  drawn['probes.png'] = comparisons.by_depth(lines, f'linear probe, top-1 of {told["data"]}, %')
  return drawn


def table(told: Mapping[str, Any]) -> str:
  """A line for each kernel and model of how well its blocks are identified, and its probes."""
  percent = lambda share: '–' if share is None else f'{share:.1f}'
  lines = [
    'layers identified in another seed, percent: the mean over pairs, both ways',
    f'{"kernel":7} {"model":22} {"trained":>9} {"untrained":>10} {"chance":>7}',
  ]
  for row in told['identified']:
    shares = [percent(row[name]) for name in ('trained', 'untrained', 'chance')]
    lines.append(
      f'{row["kernel"]:7} {row["model"]:22} {shares[0]:>9} {shares[1]:>10} {shares[2]:>7}'
    )
  lines.append('top-1 of runs, and of probes behind the first, the middle and the last block')
  lines.append(f'{"model/seed":30} {"run":>9} {"probes, trained":>20}   probes, untrained')
  for name, run in told['runs'].items():
    trained, untrained = (_three(told['probes'][state][name]) for state in ('trained', 'untrained'))
    lines.append(f'{name:30} {run["top1"]:9.2f} {trained:>20}   {untrained}')
  return '\n'.join(lines) + '\n'


def _of_blocks(tops: Mapping[str, float]) -> list[float]:
  return [top1 for layer, top1 in tops.items() if layer.startswith('block_')]


def _three(tops: Mapping[str, float]) -> str:
  blocks = _of_blocks(tops)
  return ' '.join(f'{blocks[i]:6.2f}' for i in (0, len(blocks) // 2, -1))


def _mean_accuracy(comparisons: Sequence[Mapping[str, Any]], kind: str, model: str) -> float | None:
  """Over pairs of seeds and both ways; None of one seed."""
  own = [c for c in comparisons if c['kind'] == kind and c['x'].startswith(f'{model}/')]
  found = [one[way]['accuracy'] for one in own for way in ('there', 'back')]
  return float(np.mean(found)) if found else None


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
