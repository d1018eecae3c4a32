"""Blocks that a ranking removes, and settings that are refused."""

import dataclasses

import pytest

from mixer_jax.errors import UserError
from mixer_jax.models import VARIANTS, ResNetConfig
from mixer_jax.studies.pruning_plan import Method, PruningConfig, kept_blocks

FIELDS = {
  'scores': 'cosine,random,first,last',
  'ways': ('at_once', 'one_by_one'),
  'removed': '3,0,1',
  'random_seeds': 2,
  'score_split': 'train',
  'recovery_seeds': 1,
  'latency_batch': 1,
  'latency_rounds': 1,
}
SETTINGS = PruningConfig.from_fields(FIELDS)
BLOCKS = (0, 1, 2, 3, 4)


class Ranker:
  """Ranks 4 lowest; without it, even numbers before odd ones."""

  def __init__(self):
    self.asked = []

  def __call__(self, measure, blocks):
    assert measure == 'cosine'
    self.asked.append(blocks)
    if 4 in blocks:
      return [4, *(block for block in blocks if block != 4)]
    return sorted(blocks, key=lambda block: (block % 2, -block))


def test_at_once_goes_by_one_ranking():
  rank = Ranker()
  kept = kept_blocks(Method('cosine', 'at_once', 0), [1, 3], BLOCKS, rank)
  assert kept == {1: (0, 1, 2, 3), 3: (2, 3)}
  assert rank.asked == [BLOCKS]


def test_one_by_one_ranks_the_others_again():
  rank = Ranker()
  kept = kept_blocks(Method('cosine', 'one_by_one', 0), [1, 3], BLOCKS, rank)
  assert kept == {1: (0, 1, 2, 3), 3: (1, 3)}
  assert rank.asked == [BLOCKS, (0, 1, 2, 3), (0, 1, 3)]


def test_first_last_and_random_need_no_ranking():
  rank = Ranker()
  kept = lambda score, seed=0: kept_blocks(Method(score, 'at_once', seed), [1, 2], BLOCKS, rank)
  assert kept('first') == {1: (1, 2, 3, 4), 2: (2, 3, 4)}
  assert kept('last') == {1: (0, 1, 2, 3), 2: (0, 1, 2)}
  random = [kept('random', seed) for seed in range(20)]
  assert random[0] == kept('random')
  assert {blocks for found in random for blocks in [found[1]]} == {
    tuple(b for b in BLOCKS if b != gone) for gone in BLOCKS
  }
  for found in random:
    assert set(found[2]) < set(found[1])  # two go with one of them
  assert not rank.asked


def test_methods_are_every_way_of_each_measure_and_every_seed_of_random():
  assert [dataclasses.astuple(method) for method in SETTINGS.methods()] == [
    ('cosine', 'at_once', 0),
    ('cosine', 'one_by_one', 0),
    ('random', 'at_once', 0),
    ('random', 'at_once', 1),
    ('first', 'at_once', 0),
    ('last', 'at_once', 0),
  ]
  assert SETTINGS.counts == (0, 1, 3)


@pytest.mark.parametrize(
  ('change', 'message'),
  [
    ({'scores': 'cosin'}, "pruning.scores has no 'cosin': the nearest are cosine"),
    ({'scores': 'cosine,cosine'}, 'pruning.scores names one twice'),
    ({'scores': ''}, 'config.pruning.scores=: names, as in a,b,c'),
    ({'ways': 'once'}, "pruning.ways has no 'once': the nearest are"),
    ({'removed': '1,x'}, 'numbers of blocks, each once'),
    ({'removed': '-1'}, 'numbers of blocks, each once'),
    ({'removed': '1,01'}, 'numbers of blocks, each once'),
    ({'removed': (1, -1)}, 'numbers of blocks, each once'),
    ({'removed': (True,)}, 'numbers of blocks, each once'),
    ({'removed': '0'}, 'numbers of blocks, each once'),
    ({'removed': ''}, 'numbers of blocks, each once'),
    ({'random_seeds': 0}, 'random_seeds must be a whole number, at least 1'),
    ({'recovery_seeds': -1}, 'recovery_seeds must be a whole number, at least 0'),
    ({'latency_rounds': True}, 'latency_rounds must be'),
    ({'latency': 1}, 'config.pruning has unknown fields: latency'),
  ],
)
def test_other_settings_are_refused(change, message):
  with pytest.raises(UserError, match=message):
    PruningConfig.from_fields({**FIELDS, **change})


def test_a_block_must_stay_and_the_model_do_without_the_others():
  eight = VARIANTS['S/32']
  assert dataclasses.replace(SETTINGS, removed=(7,)).checked(eight) is eight
  assert SETTINGS.checked(VARIANTS['ViT-S/32']) is VARIANTS['ViT-S/32']
  with pytest.raises(UserError, match=r'has 8 block.*one must stay: take 0 to 7'):
    dataclasses.replace(SETTINGS, removed=(2, 8)).checked(eight)
  with pytest.raises(UserError, match=r'BiT-R50x1 cannot be pruned.*: take a Mixer or a ViT'):
    SETTINGS.checked(ResNetConfig())
