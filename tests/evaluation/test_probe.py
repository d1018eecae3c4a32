"""Linear probes compared with scikit-learn's logistic regression; meshes, masks, bad input."""

import dataclasses

import jax
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import mixer_jax
from mixer_jax import models
from mixer_jax.data import pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.data.data_config import evaluation_only
from mixer_jax.errors import UserError
from mixer_jax.evaluation import probe
from mixer_jax.parallel import mesh as meshes

DATA = evaluation_only('digits', recipe='resize-crop', crop_fraction=1.0, threads=0, prefetch=0)


def features(n, layers=3, dim=12, classes=5, *, seed=0):
  """Layers that separate the classes better and better; one feature is constant."""
  rng = np.random.default_rng(seed)
  labels = rng.integers(0, classes, n)
  centres = np.random.default_rng(99).normal(size=(classes, dim))
  strength = np.linspace(0.3, 2, layers)[:, None, None]
  x = strength * centres[labels] + rng.normal(size=(layers, n, dim))
  x = x * np.geomspace(0.01, 100, dim) + 7
  x[..., 4] = 0.1
  return x.astype(np.float32), labels.astype(np.int32), rng.random(n) > 0.1


def logistic(x, labels, l2):
  """scikit-learn's fit of whitened features: whitening, model, objective at its minimum."""
  deviation = np.float64(x).std(0)
  whiten = lambda a: (
    (np.float64(a) - np.float64(x).mean(0)) / np.where(deviation > 1e-6, deviation, 1)
  )
  model = LogisticRegression(C=1 / (len(x) * l2), tol=1e-7, max_iter=2000)
  model.fit(whiten(x), labels)
  shares = model.predict_proba(whiten(x))[np.arange(len(x)), labels]
  return whiten, model, -np.log(shares).mean() + l2 / 2 * (model.coef_**2).sum()


@pytest.mark.parametrize('l2', [1e-1, 1e-3])
def test_probes_are_scikit_learns_on_eight_devices(l2):
  mesh = meshes.make_mesh()
  x, labels, mask = features(203)  # not a multiple of the devices
  test, test_labels, test_mask = features(101, seed=1)
  x[:, ~mask], test[:, ~test_mask] = np.nan, np.nan
  settings = probe.ProbeConfig(l2=l2, iterations=60)
  probes = probe.fit(settings, x, labels, mask, mesh, num_classes=5)
  top1 = probe.accuracy(probes, test, test_labels, test_mask, mesh)
  for i in range(len(x)):
    whiten, model, objective = logistic(x[i][mask], labels[mask], l2)
    assert probes.objective[i] == pytest.approx(objective, abs=1e-5)
    assert probes.gradient[i] < 1e-4
    np.testing.assert_allclose(probes.kernel[i].T, model.coef_, atol=5e-3)
    rows = test[i][test_mask]
    assert top1[i] == pytest.approx(
      100 * model.score(whiten(rows), test_labels[test_mask]), abs=100 / test_mask.sum() + 1e-6
    )
  assert top1[0] < top1[1] < top1[2]
  assert (probes.deviation[:, 4] == 1).all()


def test_more_iterations_than_needed_do_no_harm():
  mesh = meshes.make_mesh()
  x, labels, mask = features(203)
  fits = [
    probe.fit(probe.ProbeConfig(1e-2, count), x, labels, mask, mesh, num_classes=5)
    for count in (60, 400)
  ]
  np.testing.assert_allclose(fits[0].objective, fits[1].objective, atol=1e-6)
  assert np.isfinite(fits[1].kernel).all()


MIXER = mixer_jax.MixerConfig(
  patch_size=4,
  num_blocks=2,
  hidden_dim=32,
  tokens_mlp_dim=16,
  channels_mlp_dim=32,
  image_size=16,
  num_classes=10,
)
RESNET = models.ResNetConfig('1,1', 0.125, stem='cifar', groups=4, image_size=16, num_classes=10)
SETTINGS = probe.ProbeConfig(l2=1e-2, iterations=100)


@pytest.mark.parametrize('config', [MIXER, RESNET], ids=['mixer', 'resnet'])
def test_digits_after_every_block(config, digits_dir):
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  params = mixer_jax.init(config, jax.random.key(0))
  train, test = (
    open_source('digits', split, str(digits_dir)) for split in ('train[:300]', 'test[:150]')
  )
  rows = probe.linear_probe(
    config, SETTINGS, meshes.put_replicated(mesh, params), train, test, DATA, mesh, batch_size=64
  )
  assert [row.layer for row in rows] == ['block_0', 'block_1', 'pre_logits']
  for row in rows:
    assert 30 < row.top1 <= 100  # chance is 10
    assert row.train_top1 > row.top1 - 5
    assert row.gradient < 1e-2
  # scikit-learn on the same features, on one device.
  images, labels = [], []
  for part in (train, test):
    batch = next(pipeline.eval_batches(part, DATA, image_size=16, batch_size=len(part)))
    images.append(batch['image'])
    labels.append(batch['label'])
  outputs = models.features(config, params, np.concatenate(images))
  block = np.asarray(outputs['block_1'])  # of the ResNet twice as wide as block_0
  x = np.split(block.mean(axis=tuple(range(1, block.ndim - 1))), [len(train)])
  whiten, model, objective = logistic(x[0], labels[0], SETTINGS.l2)
  assert rows[1].objective == pytest.approx(objective, abs=1e-3)
  expected = 100 * model.score(whiten(x[1]), labels[1])
  assert rows[1].top1 == pytest.approx(expected, abs=1.5)


@pytest.mark.parametrize(
  ('l2', 'iterations', 'message'),
  [
    (0.0, 10, 'probe l2 must be a number'),
    (float('nan'), 10, 'probe l2 must be a number'),
    (1.0, 0, 'probe iterations must be a positive'),
    (1.0, 2.5, 'probe iterations must be a positive'),
  ],
)
def test_bad_settings_are_refused(l2, iterations, message):
  with pytest.raises(UserError, match=message):
    probe.ProbeConfig(l2=l2, iterations=iterations)


def test_bad_input_is_refused(digits_dir):
  mesh = meshes.make_mesh()
  part = open_source('digits', 'test[:16]', str(digits_dir))
  other = dataclasses.replace(part, classes=tuple('abcdefghij'))

  def run(test=part, batch_size=8, layers=None):
    probe.linear_probe(
      MIXER, SETTINGS, {}, part, test, DATA, mesh, batch_size=batch_size, layers=layers
    )

  for arguments, message in (
    ({'test': other}, 'two splits of one data set'),
    ({'layers': []}, 'no layers'),
    ({'layers': ['block_7']}, "no layer 'block_7'"),
    ({'batch_size': 9}, 'take 8'),
  ):
    with pytest.raises(UserError, match=message):
      run(**arguments)  # pyright: ignore
