"""Evaluation against NumPy, whatever the batch size and the mesh."""

import dataclasses

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax.data.batch import FILLER
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes
from tests.helpers import reference

COUNT = 37


def examples():
  rng = np.random.default_rng(0)
  images = rng.uniform(0, 255, (COUNT, 32, 32, 3)).astype(np.float32)
  return images, rng.integers(0, 7, COUNT).astype(np.int32), rng.random(COUNT) > 0.1


def batches(batch_size: int):
  images, labels, decodes = examples()
  for start in range(0, COUNT, batch_size):
    rows = np.arange(start, start + batch_size)
    here = rows < COUNT
    kept = rows.clip(max=COUNT - 1)
    yield {
      'image': images[kept],
      'label': np.where(here, labels[kept], 0).astype(np.int32),
      'mask': here & decodes[kept],
      'index': np.where(here, rows, FILLER).astype(np.int32),
    }


@pytest.mark.parametrize('batch_size', [8, 16, 40])
@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2)])
def test_every_example_counts_once(batch_size, sizes):
  config, params, _ = reference.golden()
  mesh = meshes.make_mesh(*sizes)
  order = np.random.default_rng(1).permutation(batch_size)  # as a mesh may have the processes
  result = classify.evaluate(
    classify.make_eval_step(config, mesh, loss='softmax'),
    meshes.put_replicated(mesh, params),
    ({name: rows[order] for name, rows in batch.items()} for batch in batches(batch_size)),
    mesh,
    size=COUNT,
  )
  images, labels, decodes = examples()
  logits = reference.forward(config, params, images / 127.5 - 1)
  order = np.argsort(-logits, axis=1)
  hit1 = (order[:, 0] == labels)[decodes]
  hit5 = (order[:, :5] == labels[:, None]).any(1)[decodes]
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  losses = -np.log(shares[np.arange(COUNT), labels])[decodes]
  assert result.examples == decodes.sum()
  assert result.undecodable == COUNT - decodes.sum() > 0
  assert result.top1 == pytest.approx(100 * hit1.mean())
  assert result.top5 == pytest.approx(100 * hit5.mean())
  assert result.loss == pytest.approx(losses.mean(), rel=1e-5)
  np.testing.assert_array_equal(result.predictions, np.where(decodes, order[:, 0], -1))
  np.testing.assert_allclose(result.confidences[decodes], shares.max(1)[decodes], rtol=1e-5)
  assert set(result.numbers()) == {
    'top1', 'top5', 'loss', 'examples', 'undecodable', 'images_per_second',
  }  # fmt: skip
  rows = classify.per_class(result)
  assert [row.top1 for row in rows] == sorted(row.top1 for row in rows)
  assert sum(row.images for row in rows) == result.examples
  for row in rows:
    guesses = order[(labels == row.label) & decodes, 0]
    assert row.images == guesses.size
    assert row.top1 == pytest.approx(100 * np.mean(guesses == row.label))
    wrong = np.bincount(guesses[guesses != row.label], minlength=7)
    assert row.times == wrong.max()
    assert row.confused == (wrong.argmax() if wrong.any() else None)


def test_a_model_trained_by_sigmoid_is_evaluated_by_sigmoid():
  config, params, _ = reference.golden()
  mesh = meshes.make_mesh()
  placed = meshes.put_replicated(mesh, params)
  step = classify.make_eval_step(config, mesh, loss='sigmoid')
  result = classify.evaluate(step, placed, batches(8), mesh, size=COUNT)
  images, labels, decodes = examples()
  logits = reference.forward(config, params, images / 127.5 - 1).astype(np.float64)
  shares = 1 / (1 + np.exp(-logits))
  right = np.eye(logits.shape[1])[labels] > 0
  losses = -np.where(right, np.log(shares), np.log(1 - shares)).sum(1)
  assert result.loss == pytest.approx(losses[decodes].mean(), rel=1e-5)
  best = np.argsort(-logits, axis=1)
  np.testing.assert_array_equal(result.predictions, np.where(decodes, best[:, 0], -1))
  np.testing.assert_allclose(result.confidences[decodes], shares.max(1)[decodes], rtol=1e-5)
  top = classify.make_top_step(config, mesh, 3, loss='sigmoid')
  found = top(placed, meshes.put(mesh, next(batches(8))))
  np.testing.assert_array_equal(found['class'], best[:8, :3])
  wanted = np.take_along_axis(shares[:8], best[:8, :3], axis=1)
  np.testing.assert_allclose(found['probability'], wanted, rtol=1e-5)
  # Far from zero the sigmoids of several classes are equal; their order is that of the logits.
  params = {
    **params,
    'head': {**params['head'], 'bias': np.array([30, 60, 40, 50, 0, 0, 0], np.float32)},
  }
  found = top(meshes.put_replicated(mesh, params), meshes.put(mesh, next(batches(8))))
  np.testing.assert_array_equal(found['class'], [[1, 3, 2]] * 8)


def test_real_counts_predictions_among_the_accepted_labels_and_ignores_empty_sets():
  config, params, _ = reference.golden()
  mesh = meshes.make_mesh()
  rng = np.random.default_rng(1)
  accepted = rng.random((COUNT, 7)) < 0.2
  assert not accepted.any(axis=1).all()  # some are empty

  def with_accepted():
    for start, batch in zip(range(0, COUNT, 8), batches(8), strict=True):
      rows = np.zeros((8, 7), bool)
      rows[: min(8, COUNT - start)] = accepted[start : start + 8]
      yield {**batch, 'accepted': rows}

  step = classify.make_eval_step(config, mesh, loss='softmax')
  placed = meshes.put_replicated(mesh, params)
  result = classify.evaluate(step, placed, with_accepted(), mesh, size=COUNT)
  images, labels, decodes = examples()
  best = reference.forward(config, params, images / 127.5 - 1).argmax(1)
  counted = decodes & accepted.any(axis=1)
  right = accepted[np.arange(COUNT), best]
  assert result.real == pytest.approx(100 * np.mean(right[counted]))
  assert result.real_examples == counted.sum() < decodes.sum()
  assert result.top1 == pytest.approx(100 * np.mean((best == labels)[decodes]))
  assert result.numbers()['real'] == result.real


@pytest.mark.parametrize('input_range', ['[-1, 1]', '[0, 1]'])
@pytest.mark.parametrize('dtype', [np.uint8, np.float32])
def test_levels_are_mapped_to_the_range_of_the_model(input_range, dtype):
  config, params, _ = reference.golden()
  config = dataclasses.replace(config, input_range=input_range)
  mesh = meshes.make_mesh()
  step = classify.make_top_step(config, mesh, 3, loss='softmax')
  levels = np.random.default_rng(0).integers(0, 256, (8, 32, 32, 3)).astype(dtype)
  batch = {'image': levels, 'mask': np.ones(8, bool), 'index': np.arange(8)}
  top = step(meshes.put_replicated(mesh, params), meshes.put(mesh, batch))
  pixels = levels / 255 if input_range == '[0, 1]' else levels / 127.5 - 1
  logits = reference.forward(config, params, pixels)
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  np.testing.assert_array_equal(top['class'], np.argsort(-shares, axis=1)[:, :3])
  np.testing.assert_allclose(top['probability'], -np.sort(-shares, axis=1)[:, :3], rtol=1e-5)


def test_fewer_than_five_classes_are_fine():
  config = mixer_jax.MixerConfig(
    patch_size=16,
    num_blocks=1,
    hidden_dim=8,
    tokens_mlp_dim=4,
    channels_mlp_dim=8,
    image_size=32,
    num_classes=2,
  )
  mesh = meshes.make_mesh()
  params = meshes.put_replicated(mesh, mixer_jax.init(config, jax.random.key(0)))
  step = classify.make_eval_step(config, mesh, loss='softmax')
  two = ({**batch, 'label': batch['label'] % 2} for batch in batches(40))
  assert classify.evaluate(step, params, two, mesh, size=COUNT).top5 == 100
