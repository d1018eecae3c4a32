"""The same global batches for any settings of the input, drawn from a seed: bit for bit.

Compared with the thread of the loop in one process, from step 0 on.
"""

import contextlib
import dataclasses
import itertools
import random
from typing import Any

import numpy as np
import pytest

from mixer_jax.data import pipeline
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.source import Source
from tests.data.test_pipeline import PLAIN, assert_same, made

SIZE = 12


def drawn_recipe(rng: random.Random) -> tuple[Source, DataConfig]:
  """Return what decides the batches: images, of which some do not decode, and their changes."""
  count = rng.randint(3, 90)
  source = made(count, bad=tuple(rng.sample(range(count), rng.choice((0, 0, 1, count // 3)))))
  crop = rng.choice(('tensorflow', 'uniform-area', 'square'))
  return source, dataclasses.replace(
    PLAIN,
    undecodable='skip',
    randaugment_layers=rng.choice((0, 1, 2)),
    randaugment_magnitude=15.0,
    flip=rng.random() < 0.5,
    crop=crop,
    crop_resize=15 if crop == 'square' else 0,
    permutation=rng.choice(('none', 'patches', 'pixels')),
    permutation_patch=4,
  )


def drawn_readers(rng: random.Random, workers: int) -> dict[str, int]:
  """Return what must not change the batches."""
  threads = rng.randint(1, 3) if workers else rng.randint(0, 7)
  return {'workers': workers, 'threads': threads, 'prefetch': rng.choice((0, 5, 60, 400))}


def merged(parts: list[list[dict]]) -> list[dict]:
  """Return global batches from those of each process."""
  return [
    {name: np.concatenate([batch[name] for batch in of_step]) for name in of_step[0]}
    for of_step in zip(*parts, strict=True)
  ]


def check_training(rng: random.Random, workers: int) -> None:
  source, config = drawn_recipe(rng)
  count = rng.choice((1, 1, 2, 3))
  how: dict[str, Any] = {
    'image_size': SIZE,
    'batch_size': count * rng.randint(1, 40),
    'seed': rng.randrange(2**31),
  }
  first = rng.randint(0, 12)
  steps = rng.randint(1, 9)

  def taken(config: DataConfig, first: int, steps: int, **where) -> list[dict]:
    batches = pipeline.train_batches(source, config, first_step=first, **how, **where)
    with contextlib.closing(batches):
      return list(itertools.islice(batches, steps))

  config = dataclasses.replace(config, workers=0, threads=0)
  other = dataclasses.replace(config, **drawn_readers(rng, workers))
  parts = [
    taken(other, first, steps, process=pipeline.Process(index, count)) for index in range(count)
  ]
  assert_same(merged(parts), taken(config, 0, first + steps)[first:])


def check_evaluation(rng: random.Random, workers: int) -> None:
  source, config = drawn_recipe(rng)
  count = rng.choice((1, 1, 2, 3))
  how: dict[str, Any] = {'image_size': SIZE, 'batch_size': count * rng.randint(1, 40)}
  if rng.random() < 0.3:  # as ImageNet ReaL has it
    records = [{**record, 'real': [record['label'], 0]} for record in source.records]
    source = dataclasses.replace(source, records=records, accepted='real')
  other = dataclasses.replace(config, **drawn_readers(rng, workers))
  parts = [
    list(pipeline.eval_batches(source, other, process=pipeline.Process(index, count), **how))
    for index in range(count)
  ]
  assert_same(merged(parts), list(pipeline.eval_batches(source, config, **how)))


@pytest.mark.parametrize('seed', range(6))
def test_threads(seed):
  rng = random.Random(seed)
  check_training(rng, workers=0)
  check_evaluation(rng, workers=0)


@pytest.mark.long
@pytest.mark.parametrize('seed', range(12))
def test_workers(seed):
  rng = random.Random(1000 + seed)
  check_training(rng, workers=1 + seed % 3)
  check_evaluation(rng, workers=1 + seed % 2)
