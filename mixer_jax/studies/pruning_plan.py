"""Which blocks of a Mixer are left out: by what they are ranked, and how many go at a time."""

import dataclasses
import difflib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.analysis.block_scores import MEASURES
from mixer_jax.errors import UserError
from mixer_jax.models.depth import Blocks, without

SCORES = (*MEASURES, 'random', 'first', 'last')
"""Those of `block_scores`, and three that look at no images: what the others are to beat."""
WAYS = ('at_once', 'one_by_one')
"""The k lowest of one scoring go, or one at a time, and the rest are scored anew."""


@dataclasses.dataclass(frozen=True)
class PruningConfig:
  """Attributes:
  scores: of `SCORES`, joined by commas.
  ways: of `WAYS`, likewise; random, first and last are the same in both.
  removed: how many blocks are left out, likewise; with 0, recovery of the whole Mixer tells
    what training on does by itself.
  random_seeds: orders of random, 0 to `random_seeds` − 1.
  score_split: images that blocks are scored on, of the data that recovery trains on.
  recovery_seeds: recovery runs of each pruned model; 0: none.
  latency_batch: images of a forward pass that is timed, on one device.
  latency_rounds: times that each depth is timed, in turn; the median counts.
  """

  scores: str
  ways: str
  removed: str
  random_seeds: int
  score_split: str
  recovery_seeds: int
  latency_batch: int
  latency_rounds: int

  def __post_init__(self):
    _check_names('scores', self.scores, SCORES)
    _check_names('ways', self.ways, WAYS)
    parts = self.removed.split(',')
    whole = all(part.isdecimal() for part in parts)
    if not whole or len({*map(int, parts)}) < len(parts) or self.removed == '0':
      raise UserError(
        f"pruning.removed are numbers of blocks, each once, as in '1,2,4', not {self.removed!r}"
      )
    least = {'random_seeds': 1, 'recovery_seeds': 0, 'latency_batch': 1, 'latency_rounds': 1}
    for name, value in least.items():
      found = getattr(self, name)
      if type(found) is not int or found < value:
        raise UserError(f'pruning.{name} must be a whole number, at least {value}, is {found!r}')

  @property
  def counts(self) -> tuple[int, ...]:
    """How many blocks are left out, ascending."""
    return tuple(sorted(map(int, self.removed.split(','))))

  def checked(self, config: Any) -> Any:
    """The config; `UserError` unless it is of a Mixer that so many blocks can be left out of."""
    if not models.has_capability(config, 'keep_blocks'):
      raise UserError(
        f'{models.variant_of(config)} is no Mixer: only of a Mixer can any block be left out'
      )
    most = config.num_blocks - 1
    if self.counts[-1] > most:
      raise UserError(
        f'pruning.removed={self.removed}: this Mixer has {config.num_blocks} block(s), and one '
        f'must stay: take 0 to {most}'
      )
    return config

  def methods(self) -> list['Method']:
    """Every way of every score; random once a seed."""
    found = []
    for score in self.scores.split(','):
      ways = self.ways.split(',') if score in MEASURES else WAYS[:1]
      seeds = range(self.random_seeds if score == 'random' else 1)
      found += [Method(score, way, seed) for way in ways for seed in seeds]
    return found


@dataclasses.dataclass(frozen=True)
class Method:
  """What decides which blocks go."""

  score: str
  way: str
  seed: int
  """Of random."""


Rank = Callable[[str, Blocks], Sequence[int]]
"""(one of `MEASURES`, blocks that are there) -> these, the first to go first."""


def kept_blocks(
  method: Method, counts: Sequence[int], blocks: Blocks, rank: Rank
) -> dict[int, Blocks]:
  """For each number of blocks that go, those that stay; `rank` is asked no oftener than needed."""
  most = max(counts)
  gone: list[int] = []
  while len(gone) < most:
    left = without(blocks, gone)
    order = rank(method.score, left) if method.score in MEASURES else _unseen(method, left)
    gone += order[: most if method.way == 'at_once' else 1]
  return {count: without(blocks, gone[:count]) for count in counts}


def _unseen(method: Method, blocks: Blocks) -> list[int]:
  """The order in which random, first or last leaves them out."""
  if method.score == 'random':
    return [blocks[i] for i in np.random.default_rng(method.seed).permutation(len(blocks))]
  return sorted(blocks, reverse=method.score == 'last')


def _check_names(field: str, text: str, known: Sequence[str]) -> None:
  names = text.split(',')
  for name in names:
    if name not in known:
      near = ', '.join(difflib.get_close_matches(name, known, n=3, cutoff=0))
      raise UserError(f'pruning.{field} has no {name!r}: the nearest are {near}')
  if len({*names}) < len(names):
    raise UserError(f'pruning.{field} names one twice: {text}')
