"""Few-shot compared with scikit-learn's ridge and with float64 NumPy; meshes and masks."""

import dataclasses
import functools
import io

import jax
import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import Ridge

import mixer_jax
from mixer_jax import models
from mixer_jax.data.catalog import open_source
from mixer_jax.data.data_config import evaluation_only
from mixer_jax.data.source import Source
from mixer_jax.data.subset import choose_shots
from mixer_jax.errors import UserError
from mixer_jax.evaluation import fewshot
from mixer_jax.parallel import mesh as meshes
from tests.helpers import reference
from tests.helpers.configs import run_config

L2, CONSTANT = 2.0**10, 100.0
DATA = evaluation_only('digits', recipe='resize-crop', crop_fraction=1.0, threads=0, prefetch=0)


def features(n=60, dim=24, classes=6, *, seed=0, offset=3.0):
  """Correlated features of unequal scale, with one that is constant."""
  rng = np.random.default_rng(seed)
  labels = np.arange(n) % classes
  x = rng.normal(size=(classes, dim))[labels] + rng.normal(size=(n, dim))
  x = (x @ rng.normal(size=(dim, dim))) * rng.uniform(0.01, 10, dim) + offset
  x[:, 5] = 1234.567
  return x.astype(np.float32), labels.astype(np.int32)


def whitened(x, on):
  """Whiten as the authors do, in float64, and append the constant feature."""
  x, on = np.float64(x), np.float64(on)
  white = (x - on.mean(0)) / (on.std(0) + 1e-5)
  return np.pad(white, ((0, 0), (0, 1)), constant_values=CONSTANT)


def targets(labels, classes):
  return 2 * np.eye(classes)[labels] - 1


@functools.partial(jax.jit, static_argnames=('num_classes', 'form'))
def solve(x, labels, mask, *, num_classes, form=''):
  return fewshot.solve(x, labels, mask, L2, CONSTANT, num_classes=num_classes, form=form)


# The constant feature's weight is regularised like the others: so Ridge gets it as a feature, and
# fits no intercept.
@pytest.mark.parametrize(('n', 'dim'), [(60, 24), (24, 60), (6, 40), (37, 37)])
def test_weights_and_outputs_are_those_of_ridge(n, dim):
  x, labels = features(n, dim)
  test, _ = features(50, dim, seed=1)
  found = solve(x, labels, np.ones(n, bool), num_classes=6)
  ridge = Ridge(alpha=L2, fit_intercept=False, solver='cholesky')
  ridge.fit(whitened(x, x), targets(labels, 6))
  scale = np.abs(ridge.coef_[:, :-1]).max()
  np.testing.assert_allclose(found.kernel, ridge.coef_[:, :-1].T, atol=2e-5 * scale)
  np.testing.assert_allclose(found.bias, ridge.coef_[:, -1] * CONSTANT, rtol=2e-5)
  expected = ridge.predict(whitened(test, x))
  np.testing.assert_allclose(fewshot.scores(found, test), expected, atol=2e-5)


def test_bias_is_the_intercept_of_ridge_shrunk_by_its_l2():
  """With a free intercept the weights are the same: the whitened features have no mean."""
  x, labels = features(31, 24)  # classes of unequal size
  found = solve(x, labels, np.ones(31, bool), num_classes=6)
  ridge = Ridge(alpha=L2, fit_intercept=True).fit(whitened(x, x)[:, :-1], targets(labels, 6))
  scale = np.abs(ridge.coef_).max()
  np.testing.assert_allclose(found.kernel, ridge.coef_.T, atol=2e-5 * scale)
  shrunk = 31 * CONSTANT**2 / (31 * CONSTANT**2 + L2)
  np.testing.assert_allclose(found.bias, shrunk * np.asarray(ridge.intercept_), rtol=2e-5)


@pytest.mark.parametrize(('n', 'dim'), [(60, 24), (24, 60)])
def test_primal_and_dual_agree(n, dim):
  x, labels = features(n, dim)
  mask = np.arange(n) % 7 != 3
  primal, dual = (solve(x, labels, mask, num_classes=6, form=form) for form in ('primal', 'dual'))
  for a, b in zip(primal, dual, strict=True):
    np.testing.assert_allclose(a, b, atol=2e-5 * np.abs(a).max())
  with pytest.raises(UserError, match=r"'primal' and 'dual', not 'both'"):
    fewshot.solve(x, labels, mask, L2, CONSTANT, num_classes=6, form='both')


def test_whitening_ignores_masked_rows():
  x, labels = features(60, 24)
  mask = np.arange(60) % 4 != 0
  spoiled = np.where(mask[:, None], x, np.nan).astype(np.float32)
  found = solve(spoiled, labels, mask, num_classes=6)
  alone = solve(x[mask], labels[mask], np.ones(mask.sum(), bool), num_classes=6)
  np.testing.assert_allclose(found.mean, np.float64(x[mask]).mean(0), rtol=1e-6)
  np.testing.assert_allclose(found.deviation, np.float64(x[mask]).std(0) + 1e-5, rtol=1e-5)
  assert found.deviation[5] == np.float32(1e-5)  # constant, to the last bit
  assert not np.any(found.kernel[5])
  for a, b in zip(found, alone, strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5 * np.abs(b).max())


@pytest.mark.parametrize(('n', 'dim'), [(1200, 256), (200, 256)])
def test_float32_gives_the_accuracy_of_float64_with_features_like_a_networks(n, dim):
  """Spectrum falling over four decades, and means far from 0."""
  rng = np.random.default_rng(0)
  basis = np.linalg.qr(rng.normal(size=(dim, dim)))[0] * np.geomspace(1, 1e-4, dim)[:, None]
  centres = 0.5 * rng.normal(size=(40, dim))
  draw = lambda m: ((centres[np.arange(m) % 40] + rng.normal(size=(m, dim))) @ basis + 1).astype(
    np.float32
  )
  x, test, labels = draw(n), draw(2000), np.arange(n) % 40
  found = solve(x, labels, np.ones(n, bool), num_classes=40)
  white = whitened(x, x)
  gram = white.T @ white + L2 * np.eye(dim + 1)
  weights = np.linalg.solve(gram, white.T @ targets(labels, 40))
  expected = whitened(test, x) @ weights
  outputs = np.asarray(fewshot.scores(found, test))
  np.testing.assert_allclose(outputs, expected, atol=5e-6 * float(np.ptp(expected)))
  assert np.mean(outputs.argmax(1) == expected.argmax(1)) > 0.999


CLASSES = ('a', 'b', 'c')


class _Counting:
  """Records that count their reads."""

  def __init__(self, images, labels):
    self.images, self.labels, self.read = images, labels, []

  def __len__(self):
    return len(self.labels)

  def __getitem__(self, index):
    self.read.append(index)
    return {'image': self.images[index], 'label': self.labels[index]}


def png(rng) -> bytes:
  file = io.BytesIO()
  Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(file, 'PNG')
  return file.getvalue()


def source(n=37, *, broken=(), seed=0, name='some') -> Source:
  rng = np.random.default_rng(seed)
  images = [b'' if i in broken else png(rng) for i in range(n)]
  return Source(name, CLASSES, _Counting(images, (np.arange(n) % 3).tolist()))  # pyright: ignore


@pytest.mark.parametrize(
  ('edit', 'message'),
  [
    ({'shots': ()}, 'shots must be positive whole numbers'),
    ({'shots': (0, 5)}, 'shots must be positive whole numbers'),
    ({'shots': (5, 5)}, 'a number twice'),
    ({'seeds': 0}, 'few-shot seeds must be in 1..1000'),
    ({'l2': 0.0}, 'l2 must be a number'),
    ({'constant': float('nan')}, 'constant must be a number'),
    ({'max_reads': -1}, 'max_reads must be a whole number'),
  ],
)
def test_bad_settings_are_refused(edit, message):
  with pytest.raises(UserError, match=message):
    dataclasses.replace(fewshot.PAPER, **edit)


def test_bad_input_is_refused():
  config, _, _ = reference.golden()
  mesh = meshes.make_mesh()
  make = functools.partial(fewshot.FewShot, config, fewshot.PAPER, data=DATA, mesh=mesh)
  other = dataclasses.replace(source(), classes=('a', 'b', 'd'))
  with pytest.raises(UserError, match='two splits of one data set'):
    make(train=source(), test=other, batch_size=8)
  with pytest.raises(UserError, match='take 8'):
    make(train=source(), test=source(), batch_size=7)
  with pytest.raises(UserError, match='3 labels for the 37 examples'):
    make(train=source(), test=source(), batch_size=8, train_labels=[0, 1, 2])
  with pytest.raises(UserError, match=r'has 1[23] examples, too few for 25 shots'):
    make(train=source(), test=source(), batch_size=8)


@pytest.mark.parametrize(('devices', 'batch_size'), [(1, 5), (8, 16)])
def test_accuracy_is_that_of_ridge_on_any_mesh_without_undecodable_images(devices, batch_size):
  config = mixer_jax.MixerConfig(16, 1, 16, 8, 16, image_size=32, num_classes=1)
  params = mixer_jax.init(config, jax.random.key(0))
  mesh = meshes.make_mesh(devices=jax.devices()[:devices])
  few = dataclasses.replace(fewshot.PAPER, shots=(1, 4), seeds=2)
  test = source(41, broken=(3, 40), seed=1)
  train = source(broken=(choose_shots(np.arange(37) % 3, 4, 0, CLASSES)[1, 2],))
  evaluate = fewshot.FewShot(config, few, train, test, DATA, mesh, batch_size=batch_size)
  train.records.read.clear()  # pyright: ignore
  accuracies = evaluate.accuracies(meshes.put_replicated(mesh, params))
  assert sorted(train.records.read) == evaluate.chosen.tolist()  # pyright: ignore

  encoded = train.records.images + test.records.images  # pyright: ignore
  decodes = np.array([bool(image) for image in encoded])
  spare = png(np.random.default_rng(0))
  images = np.stack([np.asarray(Image.open(io.BytesIO(image or spare))) for image in encoded])
  x = np.asarray(models.features(config, params, images)['pre_logits'])
  (x, t), (x_decodes, t_decodes) = np.split(x, [37]), np.split(decodes, [37])
  assert not x_decodes.all()
  assert t_decodes.sum() == 39
  for i, shots in enumerate(few.shots):
    for seed in range(few.seeds):
      rows = choose_shots(np.arange(37) % 3, shots, seed, CLASSES).ravel()
      rows = rows[x_decodes[rows]]
      ridge = Ridge(alpha=L2, fit_intercept=False)
      ridge.fit(whitened(x[rows], x[rows]), targets(rows % 3, 3))
      found = ridge.predict(whitened(t, x[rows])).argmax(1)
      expected = 100 * np.mean((found == np.arange(41) % 3)[t_decodes])
      assert accuracies[i, seed] == pytest.approx(expected)
  test.records.images[:] = [b''] * 41  # pyright: ignore
  with pytest.raises(UserError, match='none of the images of some decodes'):
    evaluate(meshes.put_replicated(mesh, params))


def test_digits_with_features_of_an_untrained_mixer(digits_dir):
  config = mixer_jax.MixerConfig(
    patch_size=4,
    num_blocks=1,
    hidden_dim=64,
    tokens_mlp_dim=16,
    channels_mlp_dim=32,
    image_size=16,
    num_classes=1,  # the head does not matter
  )
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  train, test = (open_source('digits', split, str(digits_dir)) for split in ('train', 'test'))
  few = dataclasses.replace(fewshot.PAPER, shots=(1, 5))
  evaluate = fewshot.FewShot(config, few, train, test, DATA, mesh, batch_size=120)
  numbers = evaluate(meshes.put_replicated(mesh, mixer_jax.init(config, jax.random.key(0))))
  assert list(numbers) == [
    f'{shots}-shot{end}' for shots in few.shots for end in ('', '_deviation')
  ]
  assert numbers['5-shot'] > numbers['1-shot'] > 10  # chance
  assert numbers['5-shot'] > 30
  assert 0 < numbers['5-shot_deviation'] < 10
  # Other params need neither another choice nor a compilation.
  chosen = evaluate.chosen.copy()
  programs = evaluate._solve._cache_size(), evaluate._test_step._cache_size()  # pyright: ignore
  other = evaluate(meshes.put_replicated(mesh, mixer_jax.init(config, jax.random.key(1))))
  assert other != numbers
  np.testing.assert_array_equal(chosen, evaluate.chosen)
  assert programs == (2, 1)
  assert programs == (evaluate._solve._cache_size(), evaluate._test_step._cache_size())  # pyright: ignore


def test_images_are_read_and_chosen_as_by_the_authors_evaluator():
  config = run_config('configs/pretrain.py:B/16,imagenet2012')
  read = config.fewshot.read_as(config.data)
  assert (read.eval_recipe, read.eval_crop_fraction) == ('resize-crop', 0.875)
  assert config.data.eval_recipe == 'resmall-crop'
  assert config.fewshot.train_split == ''
  assert fewshot.authors_split('imagenet2012') == 'train[:65000]'
  assert fewshot.authors_split('cifar100') == 'train'
  same = dataclasses.replace(config.fewshot, recipe='')
  assert same.read_as(config.data) is config.data
  with pytest.raises(UserError, match=r'fewshot\.recipe must be one of'):
    dataclasses.replace(config.fewshot, recipe='resize')
