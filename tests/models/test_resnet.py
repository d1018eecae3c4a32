"""The ResNet against float64 NumPy and SciPy, and BiT's figures."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.signal import correlate

import mixer_jax
from mixer_jax import ResNetConfig, models
from mixer_jax.errors import UserError
from mixer_jax.models import layers
from mixer_jax.models.parameters import flatten, unflatten
from mixer_jax.models.resolution import grow
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training.step import make_state
from tests.helpers import golden_models

TINY = ResNetConfig(stages='1,2', width=0.125, groups=4, stem='cifar', image_size=10, num_classes=5)
LARGE_STEM = dataclasses.replace(TINY, stages='2,1,1', stem='imagenet', image_size=37)


def random_params(config: ResNetConfig) -> dict:
  """Every leaf away from what hides it: no scale is 1, no bias and no head 0."""
  rng = np.random.default_rng(0)
  shapes = flatten(models.shapes(config))
  return unflatten(
    {
      name: rng.normal(name.endswith('scale'), 0.5, leaf.shape).astype(np.float32)
      for name, leaf in shapes.items()
    }
  )


def images(config: ResNetConfig, count: int = 2) -> np.ndarray:
  size = config.image_size
  return np.random.default_rng(1).uniform(-1, 1, (count, size, size, 3)).astype(np.float32)


def reference(config: ResNetConfig, params: dict, batch: np.ndarray) -> np.ndarray:
  """Logits in float64 from BiT's description, one image after the other."""

  def convolve(layer, x, stride=1, padding=0):
    kernel = np.asarray(layer['kernel'], np.float64)
    kernel = (kernel - kernel.mean((0, 1, 2))) / np.sqrt(kernel.var((0, 1, 2)) + 1e-10)
    x = np.pad(x, ((padding, padding), (padding, padding), (0, 0)))
    out = [correlate(x, kernel[..., i], 'valid', 'direct')[..., 0] for i in range(kernel.shape[3])]
    return np.stack(out, -1)[::stride, ::stride]

  def normed(layer, x):
    parts = [
      (part - part.mean()) / np.sqrt(part.var() + 1e-5) for part in np.split(x, config.groups, -1)
    ]
    return np.maximum(np.concatenate(parts, -1) * layer['scale'] + layer['bias'], 0)

  def pooled(x):
    x = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), (0, 1)).max((-1, -2))[::2, ::2]

  def logits(x):
    if config.stem == 'imagenet':
      x = pooled(convolve(params['stem'], x, 2, 3))
    else:
      x = convolve(params['stem'], x, 1, 1)
    number = 0
    for stage, units in enumerate(config.stages.split(',')):
      for unit in range(int(units)):
        block, stride = params[f'ResNetBlock_{number}'], 2 if stage > 0 and unit == 0 else 1
        y = normed(block['GroupNorm_0'], x)
        if unit == 0:
          x = convolve(block['projection'], y, stride)
        y = normed(block['GroupNorm_1'], convolve(block['Conv_0'], y))
        y = normed(block['GroupNorm_2'], convolve(block['Conv_1'], y, stride, 1))
        x = x + convolve(block['Conv_2'], y)
        number += 1
    x = normed(params['pre_head_group_norm'], x).mean((0, 1))
    return x @ params['head']['kernel'] + params['head']['bias']

  return np.stack([logits(np.asarray(image, np.float64)) for image in batch])


@pytest.mark.parametrize('config', [TINY, LARGE_STEM], ids=['cifar', 'imagenet'])
def test_logits_equal_float64_numpy(config):
  params, batch = random_params(config), images(config)
  wanted = reference(config, params, batch)
  logits = mixer_jax.apply(config, params, batch)
  np.testing.assert_allclose(logits, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)
  assert np.abs(wanted[0] - wanted[1]).max() > 0.01


def test_logits_features_and_gradients_equal_the_authors():
  config, params, expected = golden_models.read('bit_tiny')
  seen = mixer_jax.features(config, params, expected['images'])
  for name in ('stem', *(f'block_{i}' for i in range(4)), 'pre_logits', 'logits'):
    scale = np.abs(expected[name]).max()
    np.testing.assert_allclose(seen[name], expected[name], atol=1e-5 * scale, rtol=0, err_msg=name)
  golden_models.check_gradients(config, params, expected)


def test_the_forms_for_accelerators_have_the_same_logits(monkeypatch):
  def elsewhere(_, form, params, x):
    return form(params, x)

  monkeypatch.setattr(layers, '_by_platform', elsewhere)
  config = dataclasses.replace(TINY, num_classes=6)  # no other test has compiled it
  params, batch = random_params(config), images(config)
  wanted = reference(config, params, batch)
  logits = mixer_jax.apply(config, params, batch)
  np.testing.assert_allclose(logits, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)


def test_programs_for_accelerators_have_convolutions():
  weights = models.shapes(TINY)
  pixels = jax.ShapeDtypeStruct((2, 10, 10, 3), jnp.float32)
  traced = jax.jit(functools.partial(models.apply, TINY)).trace(weights, pixels)
  count = lambda platform: (
    traced.lower(lowering_platforms=(platform,)).as_text().count('stablehlo.convolution')
  )
  assert (count('cpu'), count('tpu'), count('cuda')) == (4, 12, 12)  # 3×3 alone, or all


def test_parameters_and_flops_are_those_of_bit():
  # BiT-M-R50x1 and R101x3 with 1000 classes, as published.
  assert models.num_params(ResNetConfig()) == 25_549_352
  assert models.num_params(ResNetConfig(stages='3,4,23,3', width=3)) == 387_934_888
  lowered = jax.jit(functools.partial(models.apply, ResNetConfig())).lower(
    models.shapes(ResNetConfig()), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
  )
  counted = lowered.cost_analysis()
  assert counted
  assert models.forward_flops(ResNetConfig()) == pytest.approx(counted['flops'], rel=0.02)


def test_init_has_the_shapes_and_a_zero_head():
  config = dataclasses.replace(TINY, head_bias=-6.9)
  params = mixer_jax.init(config, jax.random.key(0))
  found, wanted = flatten(params), flatten(models.shapes(config))
  assert {n: (x.shape, x.dtype) for n, x in found.items()} == {
    n: (x.shape, x.dtype) for n, x in wanted.items()
  }
  assert not params['head']['kernel'].any()
  np.testing.assert_allclose(params['head']['bias'], -6.9)
  assert (params['ResNetBlock_0']['GroupNorm_1']['scale'] == 1).all()
  first, second = (params[f'ResNetBlock_{i}']['Conv_1']['kernel'] for i in (1, 2))
  assert not np.array_equal(first, second)
  assert float(jnp.std(first)) == pytest.approx((9 * 16) ** -0.5, rel=0.1)  # LeCun


def test_features_have_names_and_shapes_in_order_of_depth():
  seen = mixer_jax.features(LARGE_STEM, random_params(LARGE_STEM), images(LARGE_STEM))
  assert {name: value.shape for name, value in seen.items()} == {
    'stem': (2, 10, 10, 8),
    'block_0': (2, 10, 10, 32),
    'block_1': (2, 10, 10, 32),
    'block_2': (2, 5, 5, 64),
    'block_3': (2, 3, 3, 128),
    'pre_logits': (2, 128),
    'logits': (2, 5),
  }
  assert next(iter(seen)) == 'stem'
  assert list(seen)[-3:] == ['block_3', 'pre_logits', 'logits']


def test_bytes_half_precision_and_another_size():
  params = random_params(TINY)
  pixels = np.random.default_rng(0).integers(0, 256, (2, 10, 10, 3), dtype=np.uint8)
  whole = mixer_jax.apply(TINY, params, np.float32(pixels) / 127.5 - 1)
  np.testing.assert_allclose(mixer_jax.apply(TINY, params, pixels), whole, rtol=1e-5, atol=1e-5)
  half = mixer_jax.apply(dataclasses.replace(TINY, dtype='bfloat16'), params, pixels)
  assert half.dtype == jnp.float32
  assert 0 < np.abs(half - whole).max() < 0.1 * np.abs(whole).max()
  larger, same = grow(TINY, params, 13)
  assert larger.image_size == 13
  assert same is params


@pytest.mark.parametrize('config', [TINY, LARGE_STEM], ids=['cifar', 'imagenet'])
def test_the_compiled_gradient_is_the_slope(config):
  params, batch = random_params(config), images(config)
  rng = np.random.default_rng(2)
  direction = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), params)
  moved = lambda size: jax.tree.map(lambda x, d: x + np.float64(size) * d, params, direction)
  loss = lambda p: (mixer_jax.apply(config, p, batch, train=True) ** 2).mean()
  gradient = jax.jit(jax.grad(loss))(params)
  slope = sum(jax.tree.leaves(jax.tree.map(lambda g, d: (g * d).sum(), gradient, direction)))
  values = [(reference(config, moved(size), batch) ** 2).mean() for size in (1e-5, -1e-5)]
  assert float(slope) == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-3)


def test_recomputed_gradients_are_the_same():
  plain = dataclasses.replace(TINY, stages='1')
  params, batch = random_params(plain), images(plain)

  def gradients(config):
    loss = lambda p: (mixer_jax.apply(config, p, batch, train=True) ** 2).sum()
    return flatten(jax.jit(jax.grad(loss))(params))

  again = gradients(dataclasses.replace(plain, remat=True))
  for name, gradient in gradients(plain).items():
    assert np.abs(gradient).max() > 0, name
    np.testing.assert_allclose(again[name], gradient, rtol=1e-3, atol=1e-3)


def test_every_leaf_of_a_state_has_exactly_one_rule():
  mesh = meshes.make_mesh(2, 2, 2)
  for optimizer in (optax.adamw(1e-3), optax.sgd(0.1, momentum=0.9)):
    state = jax.eval_shape(lambda o=optimizer: make_state(models.shapes(LARGE_STEM), o))
    specs = flatten(meshes.shardings(mesh, state))  # raises otherwise
    assert specs['params/ResNetBlock_0/Conv_1/kernel'].spec[-1] == 'fsdp'


def test_a_config_that_is_written_down_is_read_back():
  mixer = models.VARIANTS['B/16']
  for config in (TINY, mixer):
    assert models.config_from(dataclasses.asdict(config)) == config
  of_old = dataclasses.asdict(mixer)
  del of_old['family']
  assert models.config_from(of_old) == mixer
  with pytest.raises(UserError, match=r"model\.family must be 'mixer', 'resnet'.*, not 'cnn'"):
    models.config_from({'family': 'cnn'})


def test_names_are_what_people_call_them():
  assert models.variant_of(ResNetConfig()) == 'BiT-R50x1'
  assert models.variant_of(ResNetConfig(stages='3,4,23,3', width=3)) == 'BiT-R101x3'
  assert models.variant_of(TINY) == "ResNet-11x0.125 with CIFAR's stem"


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'stages': '3,,4'}, "as in '3,4,6,3', not '3,,4'"),
    ({'stages': '3,0'}, "not '3,0'"),
    ({'stages': 3}, 'model.stages must be a text'),
    ({'stem': 'large'}, "model.stem must be 'imagenet' or 'cifar', not 'large'"),
    ({'width': 0.3}, 'take a multiple of 0.5'),
    ({'width': 0}, 'gives 0 channels'),
    ({'width': float('nan')}, 'nan channels'),
    ({'groups': 0}, 'model.groups must be a positive whole number'),
    ({'dtype': 'int8'}, 'model.dtype must be one of'),
    ({'input_range': '0..1'}, 'model.input_range must be'),
    ({'family': 'mixer'}, "of the family resnet, not 'mixer'"),
  ],
)
def test_bad_fields_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    ResNetConfig(**fields)


def test_params_of_another_family_are_refused():
  params = random_params(TINY)
  with pytest.raises(UserError, match=r'stem/scale \(3,\) is not part of a ResNet'):
    mixer_jax.apply(TINY, {**params, 'stem': {**params['stem'], 'scale': np.ones(3)}}, images(TINY))
