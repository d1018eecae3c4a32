"""Evaluation against NumPy, whatever the batch size and the mesh."""

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax.data.pipeline import FILLER
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes
from tests import reference

COUNT = 37


def examples():
  rng = np.random.default_rng(0)
  images = rng.uniform(-1, 1, (COUNT, 32, 32, 3)).astype(np.float32)
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
  result = classify.evaluate(
    classify.make_eval_step(config, mesh),
    meshes.put_replicated(mesh, params),
    batches(batch_size),
    mesh,
    size=COUNT,
  )
  images, labels, decodes = examples()
  logits = reference.forward(config, params, images)
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
  assert set(result.numbers()) == {'top1', 'top5', 'loss', 'examples', 'undecodable'}


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
  step = classify.make_eval_step(config, mesh)
  two = ({**batch, 'label': batch['label'] % 2} for batch in batches(40))
  assert classify.evaluate(step, params, two, mesh, size=COUNT).top5 == 100
