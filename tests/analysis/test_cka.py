"""CKA against float64 NumPy, its invariances, and the same numbers on any mesh."""

import dataclasses
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.analysis import cka, layers
from mixer_jax.analysis.hsic import Contributions, Method
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from tests.helpers import reference

METHODS: list[dict[str, Any]] = [
  {},
  {'estimator': 'feature-corrected'},
  {'kernel': 'rbf', 'bandwidth': 0.2},
  {'kernel': 'rbf', 'sigma': 40.0},  # wide: near 1 everywhere
]
IDS = ['linear', 'feature-corrected', 'rbf-0.2', 'rbf-sigma']


# The references: float64, one pair and one batch at a time, from the formulas as printed.


def gram(x, kernel='linear', bandwidth=0.0, sigma=None, estimator='unbiased'):
  x = np.asarray(x, np.float64).reshape(len(x), -1)
  if kernel == 'linear':
    return x @ x.T
  distances = np.sqrt(((x[:, None] - x[None, :]) ** 2).sum(-1))
  if sigma is None:
    sigma = bandwidth * np.median(distances[np.triu_indices(len(x), 1)])
  return np.exp(-(distances**2) / (2 * sigma**2))


def hsic(k, m):
  n, ones, k, m = len(k), np.ones(len(k)), k.copy(), m.copy()
  for matrix in (k, m):
    np.fill_diagonal(matrix, 0)
  middle = (ones @ k @ ones) * (ones @ m @ ones) / ((n - 1) * (n - 2))
  return (np.sum(k * m) + middle - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def self_hsic(x, estimator='unbiased', **method):
  if estimator == 'unbiased':
    return hsic(gram(x, **method), gram(x, **method))
  columns = np.asarray(x, np.float64).reshape(len(x), -1).T
  grams = [np.outer(column, column) for column in columns]
  pairs = [hsic(k, m) for k, m in itertools.permutations(grams, 2)]
  return np.mean(pairs) * len(columns) ** 2  # as of the sum over features, not their mean


def expected(batches_x, batches_y=None, **method):
  """CKA by the sums over batches, each weighted by its images."""
  within, batches_y = batches_y is None, batches_y or batches_x
  cross, own_x, own_y = 0, 0, 0
  for xs, ys in zip(batches_x, batches_y, strict=True):
    n = len(xs[0])
    pairs = np.array([[hsic(gram(x, **method), gram(y, **method)) for y in ys] for x in xs])
    selves = [np.array([self_hsic(f, **method) for f in side]) for side in (xs, ys)]
    if within:
      pairs[np.diag_indices(len(xs))] = selves[0]
    cross, own_x, own_y = cross + n * pairs, own_x + n * selves[0], own_y + n * selves[1]
  return cross / np.sqrt(np.outer(own_x, own_y))


def drawn(seed, images, shapes, noise=0.5):
  """Layers of these shapes that share latent factors."""
  rng = np.random.default_rng(seed)
  latent = rng.normal(size=(images, 12)) * np.geomspace(2, 0.3, 12)
  layers = []
  for shape in shapes:
    width = int(np.prod(shape))
    values = latent @ rng.normal(size=(12, width)) * (1 + rng.random(width))
    values = np.maximum(values + noise * rng.normal(size=values.shape), -0.5)
    layers.append(values.reshape(images, *shape).astype(np.float32))
  return layers


B, X, Y = 40, [(5, 7), (9,), (3, 2, 2)], [(4, 6), (11,)]  # shared: each other shape compiles again


def split(layers, size):
  return [[f[i : i + size] for f in layers] for i in range(0, len(layers[0]), size)]


def streamed(batches_x, batches_y=None, masks=None, **method):
  n_y = len((batches_y or batches_x)[0])
  result = cka.MinibatchCKA(len(batches_x[0]), n_y, **method)
  for i, xs in enumerate(batches_x):
    result.update(xs, batches_y[i] if batches_y else None, masks[i] if masks else None)
  return result


def test_the_reference_itself_is_the_u_statistic():
  rng = np.random.default_rng(0)
  k, m = (gram(rng.normal(size=(6, 3))) for _ in range(2))
  terms = [
    k[i, j] * (m[i, j] + m[q, r] - 2 * m[i, q])
    for i, j, q, r in itertools.permutations(range(6), 4)
  ]
  assert hsic(k, m) == pytest.approx(np.mean(terms), rel=1e-12)


@pytest.mark.parametrize('method', METHODS, ids=IDS)
def test_equals_the_same_estimator_in_float64(method):
  layers = drawn(1, 2 * B, X + Y)
  xs, ys = split(layers[:3], B), split(layers[3:], B)
  two = streamed(xs, ys, **method)
  np.testing.assert_allclose(two.result(), expected(xs, ys, **method), rtol=0, atol=1e-5)
  xs.append([f[:20] for f in drawn(2, B, X)])  # a smaller batch has less weight
  one = streamed(xs, **method)
  np.testing.assert_allclose(one.result(), expected(xs, **method), rtol=0, atol=1e-5)
  np.testing.assert_allclose(np.diag(one.result()), 1, rtol=0, atol=1e-6)
  assert (one.images, one.batches) == (100, 3)
  assert two.result().dtype == np.float64
  assert np.ptp(two.result()) > 0.05


@pytest.mark.parametrize('method', METHODS, ids=IDS)
def test_masked_rows_have_no_effect(method):
  layers = drawn(2, B, X + Y)
  mask = np.arange(B) % 5 > 0
  junk = [np.where(mask.reshape(-1, *[1] * (f.ndim - 1)), f, np.nan) for f in layers]
  kept = [f[mask] for f in layers]
  found = streamed([junk[:3]], [junk[3:]], [mask], **method)
  np.testing.assert_allclose(
    found.result(), expected([kept[:3]], [kept[3:]], **method), rtol=0, atol=1e-5
  )
  assert found.images == 32


def test_minibatches_are_within_a_few_thousandths_of_the_full_batch():
  layers = drawn(3, 4096, [(6, 8), (100,), (300,)], noise=3)
  batches = split(layers, 256)
  found, grams = streamed(batches), [gram(f) for f in layers]
  exact = np.array([[hsic(k, m) for m in grams] for k in grams])
  exact /= np.sqrt(np.outer(np.diag(exact), np.diag(exact)))
  np.testing.assert_allclose(found.result(), exact, rtol=0, atol=5e-3)
  assert found.images == 4096

  # Of 16 batches' means: the jackknife, which the delta method should come near.
  per_batch = np.array([[[hsic(gram(x), gram(y)) for y in b] for x in b] for b in batches])
  left = per_batch.sum(0) - per_batch
  own = np.diagonal(left, axis1=1, axis2=2)
  ratios = left / np.sqrt(own[:, :, None] * own[:, None, :])
  jackknife = np.sqrt(15 / 16 * ((ratios - ratios.mean(0)) ** 2).sum(0))
  off = ~np.eye(3, dtype=bool)
  np.testing.assert_allclose(found.standard_error()[off], jackknife[off], rtol=0.1)
  np.testing.assert_allclose(np.diag(found.standard_error()), 0, atol=1e-6)

  order = np.random.default_rng(0).permutation(16)
  again = streamed([batches[i] for i in order])
  np.testing.assert_allclose(again.result(), found.result(), rtol=0, atol=1e-6)
  assert np.isnan(streamed(batches[:1]).standard_error()).all()


def test_standard_error_is_the_spread_over_data_sets():
  layers = drawn(4, 32 * 400, [(3, 4), (5,)], noise=2)
  batches = split(layers, 32)
  runs = [streamed(batches[i : i + 20]) for i in range(0, 400, 20)]
  spread = np.std([run.result()[0, 1] for run in runs], ddof=1)
  estimated = np.mean([run.standard_error()[0, 1] for run in runs])
  assert 0.6 < estimated / spread < 1.6  # of 20 runs, so within some 16 %


@pytest.mark.parametrize('method', METHODS, ids=IDS)
def test_an_offset_changes_nothing(method):
  batches = split(drawn(5, 2 * B, X), B)
  moved = [[f + np.float32(100) for f in b] for b in batches]
  plain, found = streamed(batches, **method).result(), streamed(moved, **method).result()
  np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)


def test_rotation_and_scale_change_nothing_but_other_maps_do():
  x, y = drawn(6, 64, [(20,), (9,)])
  rng = np.random.default_rng(0)
  rotation = np.linalg.qr(rng.normal(size=(20, 20)))[0].astype(np.float32)
  plain = streamed([[x]], [[y]]).result()
  for scale in (1e-12, 1e-3, 30.0, 1e12):  # whose fourth powers float32 does not hold
    found = streamed([[x @ rotation * np.float32(scale)]], [[y * np.float32(scale)]]).result()
    np.testing.assert_allclose(found, plain, rtol=0, atol=2e-6)
  stretched = x * np.geomspace(0.1, 10, 20, dtype=np.float32)
  assert abs(streamed([[stretched]], [[y]]).result() - plain).max() > 1e-3


def test_a_copy_of_a_layer_is_1_and_unrelated_layers_are_near_0():
  layers = drawn(7, B, X)
  copies = [f.copy() for f in layers]
  np.testing.assert_allclose(np.diag(streamed([layers], [copies]).result()), 1, rtol=0, atol=1e-6)
  rng = np.random.default_rng(0)
  noise = [[[rng.normal(size=(32, 500)).astype(np.float32)] for _ in range(50)] for _ in 'xy']
  assert abs(streamed(*noise).result()) < 5e-3  # the biased form would be near 0.94


def test_many_batches_do_not_drift():
  batches = split(drawn(8, 2 * B, X), B)
  once, often = streamed(batches), streamed(batches * 500)
  np.testing.assert_allclose(often.result(), once.result(), rtol=0, atol=1e-12)
  assert often.images == 40_000
  ratio = often.standard_error()[0, 1] / once.standard_error()[0, 1]
  assert ratio == pytest.approx(np.sqrt(1 / 999), rel=1e-4)  # M/(M−1)/M: of 2, then 1000


@pytest.mark.parametrize('dtype', [jnp.bfloat16, np.float64])
def test_other_float_dtypes_are_computed_in_float32(dtype):
  layers = [jnp.asarray(f).astype(dtype) if dtype != np.float64 else np.float64(f)
            for f in drawn(9, B, X)]  # fmt: skip
  wide = [np.asarray(f, np.float32) for f in layers]
  np.testing.assert_allclose(streamed([layers]).result(), expected([wide]), rtol=0, atol=1e-5)


def test_constant_features_are_nan_and_do_not_touch_others():
  layers = drawn(10, B, X)
  layers[1] = np.full_like(layers[1], 0.1)
  layers[2][:] = layers[2][:1] + 1e3
  for method in METHODS:
    found = streamed([layers, layers], **method)
    assert np.isnan(found.result()[1:]).all()
    assert np.isnan(found.result()[:, 1:]).all()
    assert found.result()[0, 0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(found.standard_error()[1]).all()


def test_equal_images_leave_a_kernel_of_equal_or_not():
  # Most distances are 0, and the median is.
  x = np.zeros((12, 3), np.float32)
  x[:3] = np.eye(3)
  found = streamed([[x]], [[drawn(0, 12, [(4,)])[0]]], kernel='rbf', bandwidth=0.5).result()
  assert np.isfinite(found).all()


# Features are a sample of more.


def test_correcting_for_few_features_removes_their_bias():
  rng = np.random.default_rng(11)
  latent = rng.normal(size=(24, 10))
  roots = [np.diag(np.geomspace(1, 0.2, 10)), rng.normal(size=(10, 10)) / 3]
  # Features a are latent @ root @ w_a with normal w_a: so the kernel of all of them is known.
  exact = [gram(latent @ root) for root in roots]
  truth = hsic(*exact) / np.sqrt(hsic(exact[0], exact[0]) * hsic(exact[1], exact[1]))

  def sampled(root, features):
    return np.float32(latent @ root @ rng.normal(size=(10, features)))

  draws = [([sampled(roots[0], 5)], [sampled(roots[1], 8)]) for _ in range(1500)]
  batches = [list(side) for side in zip(*draws, strict=True)]
  plain = streamed(*batches)
  corrected = streamed(*batches, estimator='feature-corrected')
  error, noise = corrected.result() - truth, corrected.standard_error()
  assert abs(error) < 3 * noise
  assert noise < 0.01
  assert plain.result() - truth < -10 * plain.standard_error()  # 0.1 and more too low


# Models.


def images(count, size=32, seed=0):
  """Smooth pictures, uint8."""
  rng = np.random.default_rng(seed)
  coarse = rng.integers(0, 256, (count, 4, 4, 3), np.uint8)
  return coarse.repeat(size // 4, axis=1).repeat(size // 4, axis=2)


SECOND = models.MixerConfig(
  patch_size=4, num_blocks=2, hidden_dim=10, tokens_mlp_dim=6, channels_mlp_dim=14, image_size=16,
  num_classes=3,
)  # fmt: skip


def test_a_step_is_the_same_on_one_device_and_on_eight():
  config, params, _ = reference.golden()
  names = layers.choose(
    layers.layer_names(config), ['stem', 'block_0', 'block_2/*/hidden', 'pre_logits']
  )
  masks = [np.ones(32, bool), np.arange(32) < 21]
  pictures = [images(32, seed=i) for i in range(2)]
  features = [models.features(config, params, p[m]) for p, m in zip(pictures, masks, strict=True)]
  oracle = expected([[np.asarray(f[name]) for name in names] for f in features])
  results = []
  for mesh in (meshes.make_mesh(devices=jax.devices()[:1]), meshes.make_mesh(2, 2, 2)):
    step = cka.make_cka_step(config, names, mesh, Method())
    placed = meshes.put_replicated(mesh, params)
    found = cka.MinibatchCKA(len(names), len(names))
    for picture, mask in zip(pictures, masks, strict=True):
      found.add(step(placed, meshes.put(mesh, {'image': picture, 'mask': mask})))
    np.testing.assert_allclose(found.result(), oracle, rtol=0, atol=1e-5)
    assert found.images == 53
    results.append(found.result())
  np.testing.assert_allclose(*results, rtol=0, atol=1e-5)


def test_two_models_of_different_sizes_on_a_mesh():
  method: dict[str, Any] = {'estimator': 'feature-corrected'}
  config, params, _ = reference.golden()
  other = models.init(SECOND, jax.random.key(0))
  names = ['block_0', 'block_2', 'pre_logits'], ['block_0', 'block_1/channel_mixing/hidden']
  mesh = meshes.make_mesh(2, devices=jax.devices()[:2])
  step = cka.make_cka_step(
    config, names[0], mesh, Method(**method), config_y=SECOND, names_y=names[1], how='tokens'
  )
  large, mask = images(24), np.arange(24) < 20
  small = large[:, ::2, ::2]
  batches = [meshes.put(mesh, {'image': p, 'mask': mask}) for p in (large, small)]
  found = cka.MinibatchCKA(3, 2, **method)
  found.add(
    step(
      meshes.put_replicated(mesh, params),
      batches[0],
      meshes.put_replicated(mesh, other),
      batches[1],
    )
  )
  xs, ys = (
    list(layers.reduced(own, {name: features[name] for name in chosen}, 'tokens').values())
    for own, features, chosen in (
      (config, models.features(config, params, large[:20]), names[0]),
      (SECOND, models.features(SECOND, other, small[:20]), names[1]),
    )
  )
  np.testing.assert_allclose(found.result(), expected([xs], [ys], **method), rtol=0, atol=1e-5)


def test_features_on_a_mesh_give_the_same_as_on_the_host():
  mesh, layers = meshes.make_mesh(2, 4), drawn(12, B, X + Y)
  placed = [meshes.put(mesh, {'f': f})['f'] for f in layers]
  for method in (METHODS[1], METHODS[2]):
    found = streamed([placed[:3]], [placed[3:]], **method).result()
    plain = streamed([layers[:3]], [layers[3:]], **method).result()
    np.testing.assert_allclose(found, plain, rtol=0, atol=1e-5)


def test_float_levels_and_uint8_are_the_same_images():
  config, params, _ = reference.golden()
  mesh, picture = meshes.make_mesh(devices=jax.devices()[:1]), images(16)
  step = cka.make_cka_step(config, ['stem', 'block_2'], mesh, Method())
  batches = [{'image': p, 'mask': np.ones(16, bool)} for p in (picture, np.float32(picture))]
  one, two = (step(params, batch).cross for batch in batches)
  np.testing.assert_allclose(one, two, rtol=1e-5)


# Names.


def test_choose_matches_within_a_level_and_keeps_the_depth():
  config, _, _ = reference.golden()
  names = layers.layer_names(config)
  choose = lambda *patterns: layers.choose(names, patterns)
  assert choose('block_*') == ['block_0', 'block_1', 'block_2']
  assert choose('pre_logits', 'block_1', 'stem', 'block_*')[::4] == ['stem', 'pre_logits']
  assert choose('*/channel_mixing/hidden') == [f'block_{i}/channel_mixing/hidden' for i in range(3)]
  assert choose('block_1/*/norm') == ['block_1/token_mixing/norm', 'block_1/channel_mixing/norm']
  assert set(choose('*')) == {'stem', 'block_0', 'block_1', 'block_2', 'pre_logits', 'logits'}
  assert layers.choose(names, 'stem') == ['stem']
  with pytest.raises(UserError, match=r"no layer matches 'blok_\*': the nearest are block_\*"):
    choose('stem', 'blok_*')
  with pytest.raises(UserError, match=r'the nearest are .*block_\*/channel_mixing/hidden'):
    choose('block_*/channel_mixing/hiden')
  with pytest.raises(UserError, match='no patterns'):
    choose()


def test_reduced_averages_over_places_in_the_image():
  config, params, _ = reference.golden()
  features = models.features(config, params, images(4))
  found = layers.reduced(config, features, 'tokens')
  assert found['block_0'].shape == (4, 24)
  np.testing.assert_allclose(found['block_0'], np.asarray(features['block_0']).mean(1), atol=1e-6)
  assert found['block_1/channel_mixing/hidden'].shape == (4, 48)
  assert found['block_1/token_mixing/hidden'].shape == (4, 24, 12)
  assert found['pre_logits'].shape == (4, 24)
  assert layers.reduced(config, features, 'flatten')['block_0'] is features['block_0']
  with pytest.raises(UserError, match="'flatten' or 'tokens', not 'mean'"):
    layers.reduced(config, features, 'mean')


def test_reduced_averages_over_height_and_width():
  config = models.ResNetConfig(
    stages='1,1', groups=4, width=0.125, image_size=32, num_classes=3, dtype='bfloat16'
  )
  params = models.init(config, jax.random.key(0))
  features = models.features(config, params, images(4))
  found = layers.reduced(config, features, 'tokens')
  for name, array in features.items():
    assert found[name].shape == (4, array.shape[-1])
    expected = np.asarray(array, np.float32).reshape(4, -1, array.shape[-1]).mean(1)
    np.testing.assert_allclose(found[name], expected, atol=1e-5)
  assert found['block_0'].dtype == np.float32


# Bad input.


@pytest.mark.parametrize(
  ('method', 'message'),
  [
    ({'kernel': 'cubic'}, 'kernel must be one of linear, rbf'),
    ({'estimator': 'biased'}, 'estimator must be one of unbiased'),
    ({'kernel': 'rbf'}, "'rbf' takes one of the two"),
    ({'kernel': 'rbf', 'bandwidth': 1.0, 'sigma': 1.0}, "'rbf' takes one of the two"),
    ({'sigma': 1.0}, "'linear' none"),
    ({'kernel': 'rbf', 'bandwidth': -1.0}, 'must be positive, not -1.0'),
    ({'kernel': 'rbf', 'sigma': float('nan')}, 'must be positive'),
    ({'kernel': 'rbf', 'sigma': 1.0, 'estimator': 'feature-corrected'}, 'linear kernel'),
    ({'names_x': ['a', 'b']}, 'as many names'),
  ],
)
def test_an_invalid_method_is_refused(method, message):
  with pytest.raises(UserError, match=message):
    cka.MinibatchCKA(1, 1, **method)


def test_bad_features():
  x = np.ones((8, 3), np.float32)
  with pytest.raises(UserError, match='0 by 1 layers'):
    cka.MinibatchCKA(0, 1)
  total = cka.MinibatchCKA(2, 1, names_x=['stem', 'block_0'])
  with pytest.raises(UserError, match='1 by 1 layers: this CKA is of 2 by 1'):
    total.update([x], [x])
  with pytest.raises(UserError, match='2 by 2 layers'):
    total.update([x, x])
  with pytest.raises(UserError, match=r'stem has shape \(8, 3\) and block_0 \(7, 3\)'):
    total.update([x, x[:7]], [x])
  with pytest.raises(UserError, match='batch 0 has 3 images, the estimator needs 4'):
    total.update([x[:3], x[:3]], [x[:3]])
  with pytest.raises(UserError, match=r'a mask of shape \(7,\) for a batch of 8'):
    total.update([x, x], [x], np.ones(7, bool))
  with pytest.raises(UserError, match='CKA of no images'):
    total.result()
  with pytest.raises(UserError, match='layer 0 of x has one feature'):
    cka.MinibatchCKA(1, 1, estimator='feature-corrected').update([x[:, 0]])


def test_too_few_unmasked_images_are_refused_and_none_are_no_batch():
  (x,) = drawn(0, 8, [(5,)])
  total = cka.MinibatchCKA(1, 1)
  total.update([x])
  total.update([x], mask=np.zeros(8, bool))
  assert (total.images, total.batches) == (8, 1)
  total.update([x], mask=np.arange(8) < 3)
  with pytest.raises(UserError, match='batch 1 has 3 images'):
    total.result()


@pytest.mark.parametrize('value', [np.nan, np.inf, 1e30])
@pytest.mark.parametrize('method', METHODS[::2], ids=IDS[::2])
def test_features_that_are_not_finite_are_named(value, method):
  layers = drawn(0, B, X)
  bad = [f.copy() for f in layers]
  bad[1][3, 2] = value
  total = cka.MinibatchCKA(3, 3, names_x=['a', 'b', 'c'], **method)
  total.update(layers)
  total.update(bad)
  with pytest.raises(UserError, match=r'features of b are not finite, .* in batch 1'):
    total.result()


def test_data_sets_of_different_order_or_size_are_refused():
  index = np.arange(12).reshape(3, 4)
  batches = [{'index': rows} for rows in index]
  assert list(cka.paired(batches, batches)) == [(batch, batch) for batch in batches]
  with pytest.raises(UserError, match='second data set ends after 2 batches'):
    list(cka.paired(batches, batches[:2]))
  with pytest.raises(UserError, match='first data set ends after 0 batches'):
    list(cka.paired([], batches))
  with pytest.raises(UserError, match='batch 1 holds other images'):
    list(cka.paired(batches, [batches[0], batches[2], batches[1]]))
  with pytest.raises(UserError, match='batch 0 holds other images'):
    list(cka.paired(batches, [{'index': np.arange(5)}]))


def test_unknown_layers_are_refused():
  config, _, _ = reference.golden()
  mesh = meshes.make_mesh()
  with pytest.raises(UserError, match="no layer 'block_7' in this model"):
    cka.make_cka_step(config, ['stem', 'block_7'], mesh, Method())
  with pytest.raises(UserError, match='no layers chosen'):
    cka.make_cka_step(config, [], mesh, Method())
  with pytest.raises(UserError, match='both config_y and names_y'):
    cka.make_cka_step(config, ['stem'], mesh, Method(), config_y=SECOND)
  with pytest.raises(UserError, match="not 'mean'"):
    cka.make_cka_step(config, ['stem'], mesh, Method(), how='mean')
  one_wide = dataclasses.replace(SECOND, hidden_dim=1)
  step = cka.make_cka_step(one_wide, ['pre_logits'], mesh, Method(estimator='feature-corrected'))
  batch = {'image': images(16, 16), 'mask': np.ones(16, bool)}
  with pytest.raises(UserError, match='a layer with one feature'):
    step(models.init(one_wide, jax.random.key(0)), batch)
  wrong = Contributions(np.zeros((2, 2)), *[np.zeros(2)] * 4, images=np.float32(8))  # pyright: ignore
  with pytest.raises(UserError, match='a step of 2 by 2 layers: this CKA is of 1 by 1'):
    cka.MinibatchCKA(1, 1).add(wrong)
