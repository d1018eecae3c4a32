"""Scores of blocks compared with float64 NumPy, on two devices and with masked rows."""

import dataclasses
import functools
import itertools

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.analysis.block_scores import MEASURES, Images, evaluate, order_of_removal
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig
from mixer_jax.models.depth import with_blocks, without
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from tests.helpers.factories import random_params, tiny_vit

CONFIG = MixerConfig(4, 3, 16, 8, 24, image_size=16, num_classes=3)
EVERY = (0, 1, 2)
SIZE, BATCH = 41, 24  # the second batch has 7 padding rows


def made(spread: float = 0.4) -> dict:
  """Weights whose blocks add more the deeper they are."""
  rng = np.random.default_rng(0)
  params = jax.tree.map(
    lambda leaf: rng.normal(0, spread, leaf.shape).astype(np.float32), models.shapes(CONFIG)
  )
  for i in EVERY:
    last = params[f'MixerBlock_{i}']['channel_mixing']['Dense_1']
    last['kernel'] = last['kernel'] * np.float32(2.0**i / 8)
  for name, leaf in flatten(params).items():
    if name.endswith('bias'):
      leaf[:] = 0  # so that the images decide on the class
  return params


PARAMS = made()
COLOURS = np.random.default_rng(1).integers(0, 128, (SIZE, 1, 1, 3), np.uint8)
LEVELS = COLOURS + np.random.default_rng(1).integers(0, 128, (SIZE, 16, 16, 3), np.uint8)
LABELS = np.random.default_rng(2).integers(0, 3, SIZE).astype(np.int32)


def batches():
  for start in (0, BATCH):
    count = min(BATCH, SIZE - start)
    image, label = np.zeros((BATCH, 16, 16, 3), np.uint8), np.zeros(BATCH, np.int32)
    image[:count], label[:count] = LEVELS[start : start + count], LABELS[start : start + count]
    index = np.arange(BATCH, dtype=np.int32)
    yield {'image': image, 'label': label, 'mask': index < count, 'index': index}


@functools.cache
def features(blocks=EVERY) -> dict[str, np.ndarray]:
  """Features of all unmasked images, float64."""
  arrays = mixer_jax.features(*with_blocks(CONFIG, PARAMS, blocks), LEVELS)
  return {name: np.asarray(array, np.float64) for name, array in arrays.items()}


def u_centred(x: np.ndarray) -> np.ndarray:
  """Gram matrix of rows by Székely and Rizzo: inner products of two are n(n−3)·HSIC_1."""
  x = x.reshape(len(x), -1)
  gram, n = (x - x.mean(0)) @ (x - x.mean(0)).T, len(x)
  np.fill_diagonal(gram, 0)
  rows = gram.sum(1) / (n - 2)
  gram = gram - rows[:, None] - rows[None, :] + gram.sum() / ((n - 1) * (n - 2))
  np.fill_diagonal(gram, 0)
  return gram


def cka(x: np.ndarray, y: np.ndarray) -> float:
  """HSIC summed over the two batches in proportion to their images, then divided."""
  terms = np.zeros(3)
  for rows in (slice(0, BATCH), slice(BATCH, SIZE)):
    k, m = u_centred(x[rows]), u_centred(y[rows])
    terms += np.array([(k * m).sum(), (k * k).sum(), (m * m).sum()]) / (len(k) - 3)
  return terms[0] / np.sqrt(terms[1] * terms[2])


def losses(blocks) -> tuple[float, float]:
  """Top-1 in percent and the mean cross-entropy."""
  logits = features(blocks)['logits']
  shifted = logits - logits.max(1, keepdims=True)
  log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
  return 100 * np.mean(logits.argmax(1) == LABELS), -log_p[np.arange(SIZE), LABELS].mean()


def cosine(before: np.ndarray, after: np.ndarray) -> float:
  """1 − the cosine of each token before and after a block, averaged."""
  norms = np.linalg.norm(before, axis=-1) * np.linalg.norm(after, axis=-1)
  return np.mean(1 - (before * after).sum(-1) / norms)


def wanted(measure: str, block: int) -> float:
  before = features()['stem' if block == 0 else f'block_{block - 1}']
  after, others = features()[f'block_{block}'], without(EVERY, [block])
  if measure == 'block_cka':
    return 1 - cka(before, after)
  if measure == 'output_cka':
    return 1 - cka(features()['pre_logits'], features(others)['pre_logits'])
  if measure == 'cosine':
    return cosine(before, after)
  return losses(EVERY)[0] - losses(others)[0]


@pytest.fixture(scope='module')
def images() -> Images:
  return Images(batches, meshes.make_mesh(devices=jax.devices()[:2]))


@pytest.fixture(scope='module')
def params(images) -> dict:
  return meshes.put_replicated(images.mesh, PARAMS)


@pytest.mark.parametrize('measure', MEASURES)
def test_scores_equal_those_of_numpy(measure, images, params):
  values, ties = MEASURES[measure](CONFIG, params, images)
  np.testing.assert_allclose(values, [wanted(measure, i) for i in EVERY], rtol=0, atol=1e-5)
  assert np.diff(np.sort(values)).min() > 1e-3  # so that the order means something
  if measure == 'leave_one_out':
    expected = [losses(without(EVERY, [block]))[1] for block in EVERY]
    np.testing.assert_allclose(ties, expected, rtol=1e-5)


def test_the_first_block_of_a_vit_is_given_positions_and_the_class_token(images):
  config = tiny_vit(num_classes=3)
  params = random_params(config)
  arrays = mixer_jax.features(config, params, LEVELS)
  stream = [np.asarray(arrays[name], np.float64) for name in ('embedded', 'block_0', 'block_1')]
  assert stream[0].shape == (SIZE, 17, 16)
  placed = meshes.put_replicated(images.mesh, params)
  for measure, of in {'cosine': cosine, 'block_cka': lambda x, y: 1 - cka(x, y)}.items():
    values, _ = MEASURES[measure](config, placed, images)
    expected = [of(before, after) for before, after in itertools.pairwise(stream)]
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-5)


def test_every_variant_is_evaluated_in_one_pass(images, params):
  passes = []

  def counted():
    passes.append(0)
    return batches()

  variants = [EVERY, (0, 2), (1,), (1, 2)]
  found = evaluate(CONFIG, params, variants, dataclasses.replace(images, batches=counted))
  expected = [losses(blocks) for blocks in variants]
  np.testing.assert_allclose([(f.top1, f.loss) for f in found], expected, rtol=1e-5)
  assert len(passes) == 1


def ranked(values, ties, monkeypatch, images) -> tuple[list[int], list[float]]:
  found = np.array(values, float), np.array(ties, float)
  monkeypatch.setitem(MEASURES, 'leave_one_out', lambda *_: found)
  return order_of_removal('leave_one_out', CONFIG, {}, images)


def test_the_least_important_is_first_and_the_loss_decides_ties(monkeypatch, images):
  order, values = ranked([3, 0, -1, 0], [1, 5, 9, 4], monkeypatch, images)
  assert (order, values) == ([2, 3, 1, 0], [3, 0, -1, 0])
  assert ranked([0, 0, 0], [0, 0, 0], monkeypatch, images)[0] == [0, 1, 2]


def test_a_score_that_is_not_a_number_is_refused(monkeypatch, images):
  with pytest.raises(UserError, match='leave_one_out of block_1 is not a number'):
    ranked([0, np.nan], [0, 0], monkeypatch, images)


@pytest.mark.parametrize('measure', ['cosine', 'leave_one_out'])
def test_an_overflow_is_named_by_layer_and_batch(measure, images):
  broken = made()
  dense = broken['MixerBlock_1']['channel_mixing']['Dense_1']
  dense['kernel'] = np.full_like(dense['kernel'], 3e38)

  def dark_first():  # without biases zeros stay zeros: only batch 1 overflows
    for number, batch in enumerate(batches()):
      yield {**batch, 'image': number * batch['image']}

  config = dataclasses.replace(CONFIG, input_range='[0, 1]')
  on = dataclasses.replace(images, batches=dark_first)
  where = r'block_1.* not finite.* in batch 1: '
  with pytest.raises(UserError, match=where):
    order_of_removal(measure, config, meshes.put_replicated(images.mesh, broken), on)


def test_no_image_that_decodes_is_refused(images, params):
  def empty():
    for batch in batches():
      yield {**batch, 'mask': np.zeros_like(batch['mask'])}

  with pytest.raises(UserError, match='no image decodes'):
    evaluate(CONFIG, params, [(0,)], dataclasses.replace(images, batches=empty))
