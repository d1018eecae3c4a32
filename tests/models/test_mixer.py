"""The model against the authors' numbers, and its own promises."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models import mixer
from mixer_jax.models.parameters import flatten
from tests.helpers import factories, reference

TINY = factories.tiny_mixer(num_blocks=3, num_classes=5)


def images(count: int, size: int = 16) -> np.ndarray:
  return np.random.default_rng(0).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def test_logits_and_blocks_equal_the_reference():
  config, params, expected = reference.golden()
  seen = mixer_jax.features(config, params, expected['images'])
  np.testing.assert_allclose(seen['logits'], expected['logits'], atol=1e-5, rtol=0)
  np.testing.assert_allclose(
    mixer_jax.apply(config, params, expected['images']), expected['logits'], atol=1e-5, rtol=0
  )
  for i in range(config.num_blocks):
    np.testing.assert_allclose(seen[f'block_{i}'], expected[f'block_{i}'], atol=1e-5, rtol=0)


def test_exact_gelu_equals_timm():
  config, params, expected = reference.golden()
  config = dataclasses.replace(config, gelu='erf')
  logits = mixer_jax.apply(config, params, expected['images'])
  np.testing.assert_allclose(logits, expected['logits_erf'], atol=1e-5, rtol=0)


def test_gradients_equal_the_reference():
  config, params, expected = reference.golden()

  def loss(params):
    logits = mixer_jax.apply(config, params, expected['images'])
    return optax.softmax_cross_entropy_with_integer_labels(logits, expected['labels']).mean()

  value, grads = jax.value_and_grad(loss)(params)
  np.testing.assert_allclose(value, expected['loss'], atol=1e-6)
  grads = flatten(grads)
  largest = max(np.abs(g).max() for g in grads.values())
  for name, grad in grads.items():
    wanted = expected[f'grad/{name}']
    scale = max(np.abs(wanted).max(), 1e-3 * largest)
    assert np.abs(grad - wanted).max() <= 1e-4 * scale, name


def test_float64_numpy_agrees():
  config, params, expected = reference.golden()
  for gelu in ('tanh', 'erf'):
    config = dataclasses.replace(config, gelu=gelu)
    wanted = reference.forward(config, params, expected['images'])
    logits = mixer_jax.apply(config, params, expected['images'])
    np.testing.assert_allclose(logits, wanted, atol=1e-5, rtol=0)


PAPER = {  # parameters without head, with 1000 classes (Table 1), and XLA's GFLOP a forward pass
  'S/32': (18_591_624, 19_104_624, 2.04),
  'S/16': (18_015_264, 18_528_264, 7.65),
  'S/8': (None, 20_646_504, None),
  'B/32': (59_524_428, 60_293_428, 6.58),
  'B/16': (59_111_472, 59_880_472, 25.45),
  'L/32': (205_914_264, 206_939_264, 22.85),
  'L/16': (207_171_168, 208_196_168, 89.81),
  'H/14': (431_069_952, 432_350_952, 243.4),
}


@pytest.mark.parametrize('name', mixer.VARIANTS)
def test_parameter_counts_and_flops(name):
  config = mixer_jax.VARIANTS[name]
  headless, with_head, gflop = PAPER[name]
  assert models.num_params(config) == with_head
  if headless:
    assert models.num_params(config) - (config.hidden_dim + 1) * 1000 == headless
  if gflop:
    assert models.forward_flops(config) / 1e9 == pytest.approx(gflop, rel=0.02)


def test_init_makes_the_published_names_with_a_zero_head():
  params = mixer_jax.init(TINY, jax.random.key(0))
  assert sorted(flatten(params)) == sorted(flatten(models.shapes(TINY)))
  assert 'MixerBlock_2/token_mixing/Dense_1/kernel' in flatten(params)
  assert params['stem']['kernel'].shape == (4, 4, 3, 16)
  assert not params['head']['kernel'].any()
  biased = mixer_jax.init(dataclasses.replace(TINY, head_bias=-6.9), jax.random.key(0))
  np.testing.assert_allclose(biased['head']['bias'], -6.9)
  assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))
  spread = float(jnp.std(params['MixerBlock_0']['channel_mixing']['Dense_0']['kernel']))
  assert spread == pytest.approx(16**-0.5, rel=0.1)  # LeCun: variance 1 / fan-in


def test_features_have_names_shapes_and_the_order_of_depth():
  params = mixer_jax.init(TINY, jax.random.key(0))
  seen = mixer_jax.features(TINY, params, images(2))
  assert list(seen)[:7] == [
    'stem',
    'block_0/token_mixing/norm',
    'block_0/token_mixing/hidden',
    'block_0/token_mixing/residual',
    'block_0/channel_mixing/norm',
    'block_0/channel_mixing/hidden',
    'block_0',
  ]
  assert list(seen)[-2:] == ['pre_logits', 'logits']
  assert len(seen) == 1 + 6 * 3 + 2
  shapes = {name.split('/', 1)[-1]: value.shape for name, value in seen.items()}
  assert shapes['token_mixing/hidden'] == (2, 16, 8)
  assert shapes['channel_mixing/hidden'] == (2, 16, 32)
  assert shapes['token_mixing/residual'] == shapes['stem'] == (2, 16, 16)
  assert shapes['pre_logits'] == (2, 16)
  rebuilt = seen['pre_logits'] @ params['head']['kernel'] + params['head']['bias']
  np.testing.assert_allclose(rebuilt, seen['logits'], atol=1e-6)


def test_bytes_are_mapped_to_minus_one_to_one():
  params = golden_like()
  pixels = np.random.default_rng(0).integers(0, 256, (2, 16, 16, 3), dtype=np.uint8)
  floats = pixels.astype(np.float32) / 127.5 - 1
  np.testing.assert_allclose(
    mixer_jax.apply(TINY, params, pixels), mixer_jax.apply(TINY, params, floats), atol=1e-5
  )


def golden_like() -> dict:
  """Random parameters, the head's too."""
  key = jax.random.key(1)
  params = mixer_jax.init(TINY, key)
  params['head']['kernel'] = jax.random.normal(key, params['head']['kernel'].shape)
  return params


def test_bfloat16_keeps_logits_and_statistics_in_float32():
  config = dataclasses.replace(TINY, dtype='bfloat16')
  params = golden_like()
  seen = mixer_jax.features(config, params, images(2))
  assert seen['block_2'].dtype == jnp.bfloat16
  assert seen['pre_logits'].dtype == seen['logits'].dtype == jnp.float32
  exact = mixer_jax.apply(TINY, params, images(2))
  assert 0 < float(jnp.abs(seen['logits'] - exact).max()) < 0.1 * float(jnp.abs(exact).max())
  # Statistics in bfloat16 would lose an offset of 256 to its 8 bits.
  hlo = jax.jit(lambda p, x: mixer_jax.apply(config, p, x)).lower(params, images(2)).as_text()
  reductions = [line for line in hlo.splitlines() if 'stablehlo.reduce(' in line]
  assert reductions
  assert not [line for line in reductions if 'bf16' in line]
  # A scale that bfloat16 would round to 1 is one.
  norm = params['MixerBlock_0']['LayerNorm_0']
  norm['scale'] = jnp.ones_like(norm['scale'])
  name, more = 'block_0/token_mixing/norm', {'scale': 1.001 * norm['scale'], 'bias': norm['bias']}
  plain = mixer_jax.features(config, params, images(2))[name]
  params['MixerBlock_0']['LayerNorm_0'] = more
  assert (mixer_jax.features(config, params, images(2))[name] != plain).mean() > 0.1


def test_remat_changes_nothing_but_memory():
  params, x, key = golden_like(), images(4), jax.random.key(3)
  config = dataclasses.replace(TINY, stochastic_depth=0.5, dropout=0.1)

  def grad(config):
    loss = lambda p: mixer_jax.apply(config, p, x, train=True, key=key).std()
    return jax.jit(jax.grad(loss))

  plain, remat = grad(config), grad(dataclasses.replace(config, remat=True))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain(params), remat(params)
  )
  gelus = lambda f: f.lower(params).as_text().count('stablehlo.tanh')
  assert (gelus(plain), gelus(remat)) == (2 * 3, 2 * 2 * 3)


def test_stochastic_depth_skips_whole_branches_and_rescales_nothing():
  config = dataclasses.replace(TINY, num_blocks=2, stochastic_depth=0.5)
  params = mixer_jax.init(config, jax.random.key(0))
  x = jnp.asarray(images(400))

  run = jax.jit(lambda key: mixer.run(config, params, x, state={}, train=True, key=key)[0])
  seen, whole = run(jax.random.key(1)), mixer_jax.features(config, params, x)
  # The first block has rate 0: training computes what evaluation does.
  np.testing.assert_allclose(seen['block_0'], whole['block_0'], atol=1e-5)
  # In the last, a branch is there as it is, or not at all.
  branch = seen['block_1/token_mixing/residual'] - seen['block_0']
  full = whole['block_1/token_mixing/residual'] - whole['block_0']
  kept = np.abs(branch).max(axis=(1, 2)) > 0
  np.testing.assert_allclose(branch[kept], full[kept], atol=1e-5)
  assert 0.4 < kept.mean() < 0.6  # 400 draws of 0.5: four standard deviations
  other = np.abs(seen['block_1'] - seen['block_1/token_mixing/residual']).max(axis=(1, 2)) > 0
  assert 0.4 < (kept == other).mean() < 0.6  # the two branches are drawn apart


def test_training_without_randomness_needs_no_key_and_with_it_does():
  params = golden_like()
  np.testing.assert_array_equal(
    mixer_jax.apply(TINY, params, images(2), train=True), mixer_jax.apply(TINY, params, images(2))
  )
  config = dataclasses.replace(TINY, dropout=0.5)
  with pytest.raises(UserError, match='needs key='):
    mixer_jax.apply(config, params, images(2), train=True)
  a = mixer_jax.apply(config, params, images(2), train=True, key=jax.random.key(0))
  b = mixer_jax.apply(config, params, images(2), train=True, key=jax.random.key(1))
  assert np.abs(a - b).max() > 1e-3
  np.testing.assert_array_equal(
    mixer_jax.apply(config, params, images(2)), mixer_jax.apply(TINY, params, images(2))
  )


@pytest.mark.parametrize(
  ('field', 'value', 'message'),
  [
    ('image_size', 18, 'not a multiple of model.patch_size 4: take 16 or 20'),
    ('hidden_dim', 0, 'positive whole number'),
    ('num_blocks', 2.0, 'positive whole number'),
    ('num_classes', True, 'positive whole number'),
    ('gelu', 'relu', "'tanh' or 'erf'"),
    ('dtype', 'float8', 'one of float32, bfloat16'),
    ('dropout', 1.0, r'in \[0, 1\)'),
    ('stochastic_depth', float('nan'), r'in \[0, 1\)'),
    ('head_bias', 'a', 'must be a number'),
  ],
)
def test_bad_fields_are_named(field, value, message):
  with pytest.raises(UserError, match=message) as error:
    dataclasses.replace(TINY, **{field: value})
  assert f'model.{field}' in str(error.value)


def test_images_of_another_shape_are_refused():
  params = mixer_jax.init(TINY, jax.random.key(0))
  for shape in [(2, 20, 20, 3), (2, 16, 16, 1), (16, 16, 3)]:
    with pytest.raises(UserError, match=r'this model takes \(batch, 16, 16, 3\)'):
      mixer_jax.apply(TINY, params, np.zeros(shape, np.float32))


def test_images_of_other_types_are_refused():
  params = golden_like()
  with pytest.raises(UserError, match='images of int32: give uint8'):
    mixer_jax.apply(TINY, params, np.zeros((2, 16, 16, 3), np.int32))
  with pytest.raises(UserError, match=r'an array of shape \(batch, 16, 16, 3\), not list'):
    mixer_jax.apply(TINY, params, [[0.0]])
  mixer_jax.apply(TINY, params, np.zeros((2, 16, 16, 3), np.float64))


def test_params_of_another_model_are_refused():
  params, x = golden_like(), images(1)
  for field, value, message in (
    ('num_classes', 7, r'head/kernel has shape \(16, 5\), expected \(16, 7\)'),
    ('num_blocks', 4, 'MixerBlock_3/.* is missing; .* and 9 more'),
    ('num_blocks', 2, 'MixerBlock_2/.* is not part of a Mixer'),
  ):
    with pytest.raises(UserError, match=message):
      mixer_jax.apply(dataclasses.replace(TINY, **{field: value}), params, x)


def test_a_config_of_another_family_is_refused():
  with pytest.raises(UserError, match='no model for a config of type int: use MixerConfig'):
    models.shapes(3)
