"""Comparisons of a CKA study: pairs of models, and figures of their layers."""

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis.cka import MinibatchCKA
from mixer_jax.analysis.identification import Identification, identify
from mixer_jax.runs.npz import npz_bytes


@dataclasses.dataclass(frozen=True)
class Member:
  """A model of the study: a run at its end, or at its start."""

  model: str
  seed: int
  is_trained: bool
  folder: str
  data: str
  """Training data."""
  config: models.ModelConfig
  layers: list[str]
  params: dict

  @property
  def state(self) -> str:
    """State of the member: 'trained' or 'untrained'."""
    return 'trained' if self.is_trained else 'untrained'

  @property
  def run(self) -> str:
    """Name of its run: 'blocks_8/0'."""
    return f'{self.model}/{self.seed}'

  @property
  def name(self) -> str:
    """Name of the member: 'blocks_8/0' or 'blocks_8/0 untrained'."""
    return self.run + ('' if self.is_trained else ' untrained')


def pairs(members: Sequence[Member]) -> Iterator[tuple[str, Member, Member]]:
  """Yields (kind, x, y) of all comparisons; between models, those of the first seed."""
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


def comparisons(members: Sequence[Member], total: MinibatchCKA) -> list[dict[str, Any]]:
  """Figures of each comparison, as `cka_study.json` holds them."""
  matrix = total.result()
  return [
    {'kind': kind, 'x': x.name, 'y': y.name, **_figures(_block(matrix, members, x, y))}
    for kind, x, y in pairs(members)
  ]


def npz(members: Sequence[Member], totals: Mapping[str, MinibatchCKA]) -> bytes:
  """For each kernel the complete matrix and its standard error, and the name of each row."""
  arrays = {}
  for kernel, total in totals.items():
    arrays |= {kernel: total.result(), f'{kernel}_standard_error': total.standard_error()}
  names = [f'{member.name}: {layer}' for member in members for layer in member.layers]
  return npz_bytes(names=names, **arrays)


def _block(matrix: np.ndarray, members: Sequence[Member], x: Member, y: Member) -> np.ndarray:
  """Part of the complete matrix that compares two members."""
  ends = list(itertools.accumulate((len(member.layers) for member in members), initial=0))
  rows, columns = (
    slice(ends[place], ends[place + 1])
    for place in (next(i for i, member in enumerate(members) if member is one) for one in (x, y))
  )
  return matrix[rows, columns]


def _figures(block: np.ndarray) -> dict[str, Any]:
  return {
    'there': _as_json(identify(block)),
    'back': _as_json(identify(block.T)),
    'cka': [list(map(_number, row)) for row in block],
  }


def _as_json(found: Identification) -> dict[str, Any]:
  changes = {'nearest': list(found.nearest), 'depth_error': _number(found.depth_error)}
  return dataclasses.asdict(found) | changes


def _number(value: float) -> float | None:
  """A rounded number; None for NaN, which JSON does not have."""
  return round(float(value), 5) if math.isfinite(value) else None
