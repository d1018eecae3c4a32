"""Pooled features: gathered in order on any mesh, and whitened."""

import jax
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.data.batch import FILLER
from mixer_jax.errors import UserError
from mixer_jax.evaluation import features
from mixer_jax.evaluation.pipelined import pipelined
from mixer_jax.parallel import mesh as meshes
from tests.helpers import reference
from tests.helpers.factories import random_params, tiny_vit


@pytest.mark.parametrize('sizes', [(8, 1, 1), (2, 2, 2)])
def test_features_are_gathered_in_order_whatever_the_mesh(sizes):
  config, params, _ = reference.golden()
  mesh = meshes.make_mesh(*sizes)
  images = np.random.default_rng(0).uniform(0, 255, (19, 32, 32, 3)).astype(np.float32)

  def batches():
    for start in (0, 8, 16):
      # A mesh may have the processes of a pod in any order.
      rows = np.random.default_rng(start).permutation(8) + start
      here = rows < 19
      yield {
        'image': images[rows.clip(max=18)],
        'label': np.where(here, rows, 0).astype(np.int32),
        'mask': here & (rows != 4),
        'index': np.where(here, rows, FILLER).astype(np.int32),
      }

  names = ['pre_logits', 'block_1']
  step = features.make_feature_step(config, mesh, names)
  found = features.gather(step, meshes.put_replicated(mesh, params), batches(), mesh, size=19)
  expected = models.features(config, params, images / 127.5 - 1)
  np.testing.assert_array_equal(found.labels, np.arange(19))
  np.testing.assert_array_equal(found.mask, np.arange(19) != 4)
  assert found.layers['pre_logits'].dtype == np.float32
  np.testing.assert_allclose(found.layers['pre_logits'], expected['pre_logits'], atol=1e-5)
  np.testing.assert_allclose(found.layers['block_1'], expected['block_1'].mean(1), atol=1e-5)


def test_tokens_are_averaged_and_heads_of_attention_stay_apart():
  vit = tiny_vit()
  resnet = models.ResNetConfig('1,1', 0.125, stem='cifar', groups=4, image_size=16, num_classes=10)
  images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3)).astype(np.uint8)
  for config, names in (
    (vit, ['stem', 'block_1', 'block_0/attention/query', 'pre_logits']),
    (resnet, ['stem', 'block_1', 'pre_logits']),
  ):
    params = random_params(config)
    found = features.pooled_features(config, params, {'image': images}, names)
    expected = models.features(config, params, images)
    for name in names:
      rows = np.asarray(expected[name], np.float64)
      if config is vit and rows.ndim > 2:
        rows = rows.mean(1).reshape(3, -1)  # over the 17 tokens, or the 16 of the stem
      elif rows.ndim > 2:
        rows = rows.mean((1, 2))
      np.testing.assert_allclose(found[name], rows, rtol=1e-5, atol=1e-5, err_msg=name)


def test_an_unknown_layer_is_refused():
  with pytest.raises(UserError, match="no layer 'block_9'"):
    features.make_feature_step(reference.golden()[0], meshes.make_mesh(), ['block_9'])


def test_results_come_in_order_each_after_the_next_dispatch():
  order = []
  log = order.append

  def step(number):
    log(f'dispatch {number}')
    return jax.numpy.asarray(number)

  for result in pipelined(step, range(3)):
    log(f'result {result}')
  assert order[:3] == ['dispatch 0', 'dispatch 1', 'result 0']
  assert order[3:] == ['dispatch 2', 'result 1', 'result 2']
  assert list(pipelined(step, [])) == []


def test_whitening_ignores_masked_rows_and_makes_constant_features_zero():
  x = np.random.default_rng(0).normal(5, 3, (20, 4)).astype(np.float32)
  x[:, 2] = 1234.567
  mask = np.arange(20) % 3 != 1
  spoiled = np.where(mask[:, None], x, np.nan).astype(np.float32)
  white = features.whiten(spoiled, mask, lambda deviation: deviation + 1e-5)
  rows = np.float64(x[mask])
  np.testing.assert_allclose(white.mean_C, rows.mean(0), rtol=1e-6)
  np.testing.assert_allclose(white.scale_C, rows.std(0) + 1e-5, rtol=1e-5)
  assert not np.any(white.x_nC[:, 2])
  assert not np.any(np.asarray(white.x_nC)[~mask])
  expected = (rows - rows.mean(0)) / (rows.std(0) + 1e-5)
  np.testing.assert_allclose(np.asarray(white.x_nC)[mask], expected, atol=1e-4)
