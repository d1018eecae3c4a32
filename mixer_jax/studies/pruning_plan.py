"""Choice of the blocks of a model that are removed: by which score, and how many at a time."""

import dataclasses
import difflib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis.block_scores import MEASURES
from mixer_jax.errors import UserError
from mixer_jax.models.depth import Blocks, without
from mixer_jax.runs.fields import build, parse_names

SCORES = (*MEASURES, 'random', 'first', 'last')
"""Those of `block_scores`, and three baselines that need no images."""
WAYS = ('at_once', 'one_by_one')
"""The k lowest of one scoring, or one at a time with the others scored again."""


@dataclasses.dataclass(frozen=True)
class PruningConfig:
  """Attributes:
  scores: some of `SCORES`.
  ways: some of `WAYS`.
  removed: numbers of blocks that are removed; with 0, the complete model is trained on as well,
    for comparison.
  random_seeds: orders of random, 0 to `random_seeds` - 1.
  score_split: images that blocks are scored on, of the data that recovery trains on.
  recovery_seeds: recovery runs of each pruned model; 0: none.
  latency_batch: images of a forward pass that is timed, on one device.
  latency_rounds: times that each depth is timed, in turn; the median counts.
  """

  scores: tuple[str, ...]
  ways: tuple[str, ...]
  removed: tuple[int, ...]
  random_seeds: int
  score_split: str
  recovery_seeds: int
  latency_batch: int
  latency_rounds: int

  def __post_init__(self):
    _check_names('scores', self.scores, SCORES)
    _check_names('ways', self.ways, WAYS)
    counts = self.removed
    if any(type(n) is not int or n < 0 for n in counts) or not any(counts):
      raise UserError(_REMOVED.format(','.join(map(str, counts))))
    if len(set(counts)) < len(counts):
      raise UserError(_REMOVED.format(','.join(map(str, counts))))
    least = {'random_seeds': 1, 'recovery_seeds': 0, 'latency_batch': 1, 'latency_rounds': 1}
    for name, value in least.items():
      found = getattr(self, name)
      if type(found) is not int or found < value:
        raise UserError(f'pruning.{name} must be a whole number, at least {value}, is {found!r}')

  @classmethod
  def from_fields(cls, fields: Mapping[str, Any]) -> 'PruningConfig':
    """The config of these fields, whose lists may be text such as '1,2,4'."""
    parsed = dict(fields)
    for name, value in fields.items():
      if name in ('scores', 'ways'):
        parsed[name] = parse_names(f'config.pruning.{name}', value)
      elif name == 'removed':
        parsed[name] = _counts(value)
    return build(cls, parsed, 'pruning')

  @property
  def counts(self) -> tuple[int, ...]:
    """Numbers of blocks that are removed, ascending."""
    return tuple(sorted(self.removed))

  def checked(self, config: Any) -> Any:
    """Returns the config; raises `UserError` unless these blocks can be removed from its model."""
    if not models.has_capability(config, 'keep_blocks'):
      can = ' or a '.join(models.families_with('keep_blocks'))
      raise UserError(
        f'{models.variant_of(config)} cannot be pruned, as none of its blocks can be left out: '
        f'take a {can}'
      )
    most = config.num_blocks - 1
    if self.counts[-1] > most:
      raise UserError(
        f'pruning.removed={",".join(map(str, self.removed))}: the model has {config.num_blocks} '
        f'block(s), and one must stay: take 0 to {most}'
      )
    return config

  def methods(self) -> list['Method']:
    """Every way of every score; random once for each seed."""
    found = []
    for score in self.scores:
      ways = self.ways if score in MEASURES else WAYS[:1]
      seeds = range(self.random_seeds if score == 'random' else 1)
      found += [Method(score, way, seed) for way in ways for seed in seeds]
    return found


_REMOVED = "pruning.removed are numbers of blocks, each once, as in '1,2,4', not {!r}"


@dataclasses.dataclass(frozen=True)
class Method:
  """Choice of the blocks that are removed."""

  score: str
  way: str
  seed: int
  """Seed of the order of random."""


Rank = Callable[[str, Blocks], Sequence[int]]
"""(one of `MEASURES`, blocks of a model) -> these blocks, the first to be removed first."""


def kept_blocks(
  method: Method, counts: Sequence[int], blocks: Blocks, rank: Rank
) -> dict[int, Blocks]:
  """Number of removed blocks -> the blocks that stay; calls `rank` no more often than needed."""
  most = max(counts)
  gone: list[int] = []
  while len(gone) < most:
    left = without(blocks, gone)
    order = rank(method.score, left) if method.score in MEASURES else _baseline(method, left)
    gone += order[: most if method.way == 'at_once' else 1]
  return {count: without(blocks, gone[:count]) for count in counts}


def _counts(value: Any) -> tuple[int, ...]:
  """Numbers of blocks: a sequence, or text such as '1,2,4'."""
  if not isinstance(value, str):
    return tuple(value)
  parts = value.split(',')
  if not all(part.isdecimal() for part in parts):
    raise UserError(_REMOVED.format(value))
  return tuple(map(int, parts))


def _baseline(method: Method, blocks: Blocks) -> list[int]:
  """Order in which random, first or last removes blocks."""
  if method.score == 'random':
    return [blocks[i] for i in np.random.default_rng(method.seed).permutation(len(blocks))]
  return sorted(blocks, reverse=method.score == 'last')


def _check_names(field: str, names: Sequence[str], known: Sequence[str]) -> None:
  for name in names:
    if name not in known:
      near = ', '.join(difflib.get_close_matches(name, known, n=3, cutoff=0))
      raise UserError(f'pruning.{field} has no {name!r}: the nearest are {near}')
  if not names or len({*names}) < len(names):
    raise UserError(f'pruning.{field} names one twice, or none: {",".join(names)}')
