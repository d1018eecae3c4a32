"""Sharpness-aware minimisation against float64 NumPy and Optax, on every mesh."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models.parameters import flatten, unflatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import make_optimizer, make_schedule
from mixer_jax.training.sam import Sam, make_sam
from tests.helpers import configs, factories, reference
from tests.training.test_step import (
  BARE,
  CONFIG,
  MESHES,
  assert_same_gradients,
  batches,
  gradients,
  one_device,
  run,
)

GSAM = {'sam_rho': 0.3, 'sam_alpha': 0.6}


def bare(**fields):
  """Plain SGD at rate 1: the parameters move by exactly the gradient."""
  return dataclasses.replace(BARE, **fields)


def constant(rho: float, alpha: float = 0.0) -> Sam:
  return Sam(lambda step: rho, alpha)


def expected(gradient, params: np.ndarray, rho: float, alpha: float) -> np.ndarray:
  """The papers' gradient of one vector of parameters."""
  clean = gradient(params)
  perturbed = gradient(params + rho * clean / np.linalg.norm(clean))
  (share,), *_ = np.linalg.lstsq(perturbed[:, None], clean, rcond=None)
  return perturbed - alpha * (clean - share * perturbed)


# --- The formula --------------------------------------------------------------------------------


@pytest.mark.parametrize('alpha', [0.0, 0.6])
def test_the_gradient_on_a_quadratic_is_that_of_the_papers(alpha):
  rng = np.random.default_rng(0)
  root, offset, at = rng.normal(size=(6, 6)), rng.normal(size=6), rng.normal(size=6)
  matrix = root @ root.T
  wanted = expected(lambda x: matrix @ x - offset, at, 0.3, alpha)

  def gradient(params):
    joined = jnp.concatenate([params['a'], params['b']['c']])
    found = jnp.float32(matrix) @ joined - jnp.float32(offset)
    return {'a': found[:2], 'b': {'c': found[2:]}}

  params = {'a': jnp.float32(at[:2]), 'b': {'c': jnp.float32(at[2:])}}
  found = constant(0.3, alpha).gradient(gradient, params, gradient(params), jnp.int32(0))
  joined = np.concatenate([found['a'], found['b']['c']])
  np.testing.assert_allclose(joined, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
  if alpha:  # what is subtracted is orthogonal to the gradient of SAM
    sam = expected(lambda x: matrix @ x - offset, at, 0.3, 0.0)
    assert abs((joined - sam) @ sam) <= 1e-5 * np.linalg.norm(sam) ** 2


@pytest.mark.parametrize('alpha', [0.0, 0.6])
def test_a_gradient_of_zero_stays_zero(alpha):
  still = lambda params: jax.tree.map(lambda x: 0 * x, params)  # NaN where params are
  params = {'a': jnp.ones(3)}
  found = constant(0.3, alpha).gradient(still, params, still(params), jnp.int32(0))
  np.testing.assert_array_equal(found['a'], np.zeros(3))


# --- A Mixer in float64 -------------------------------------------------------------------------

SMALL = mixer_jax.MixerConfig(
  patch_size=4, num_blocks=1, hidden_dim=4, tokens_mlp_dim=3, channels_mlp_dim=5,
  image_size=8, num_classes=3, dtype='float32',
)  # fmt: skip


@functools.cache
def small() -> tuple[dict, dict[str, np.ndarray]]:
  """(params, a batch)."""
  rng = np.random.default_rng(3)
  images = rng.uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
  return factories.random_params(SMALL), {
    'image': images,
    'label': rng.integers(0, 3, 8).astype(np.int32),
  }


def float64_gradient(vector: np.ndarray) -> np.ndarray:
  """Central differences of the loss of a Mixer that is written from the paper's equations."""
  params, batch = small()
  names = {name: np.shape(leaf) for name, leaf in flatten(params).items()}

  def loss(vector):
    parts = np.split(vector, np.cumsum([np.prod(shape) for shape in names.values()])[:-1])
    found = {n: part.reshape(names[n]) for n, part in zip(names, parts, strict=True)}
    logits = reference.forward(SMALL, unflatten(found), batch['image'])
    own = logits[np.arange(len(logits)), batch['label']]
    return (np.log(np.exp(logits).sum(1)) - own).mean()

  gradient, size = np.empty_like(vector), 1e-5
  for i in range(len(vector)):
    moved = np.zeros_like(vector)
    moved[i] = size
    gradient[i] = (loss(vector + moved) - loss(vector - moved)) / (2 * size)
  return gradient


@pytest.mark.parametrize('alpha', [0.0, 0.6])
def test_a_step_moves_a_mixer_by_the_gradient_in_float64(alpha):
  params, batch = small()
  vector = np.concatenate([np.ravel(leaf) for leaf in flatten(params).values()]).astype(np.float64)
  wanted = expected(float64_gradient, vector, 0.5, alpha)
  optimizer, mesh = bare(sam_rho=0.5, sam_alpha=alpha), meshes.make_mesh()
  schedule = make_schedule(optimizer, 20)
  transform = make_optimizer(optimizer, schedule)
  train_step = steps.make_train_step(
    SMALL, transform, schedule, mesh, sam=make_sam(optimizer, schedule)
  )
  state = steps.state_from_params(params, transform, mesh)
  state, metrics = train_step(state, meshes.put(mesh, batch))
  after = flatten(jax.device_get(state.params))
  moved = vector - np.concatenate([np.ravel(after[name]) for name in flatten(params)])
  np.testing.assert_allclose(moved, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())
  assert float(metrics['grad_norm']) == pytest.approx(np.linalg.norm(wanted), rel=1e-5)
  logits = reference.forward(SMALL, params, batch['image'])
  own = logits[np.arange(8), batch['label']]
  assert float(metrics['loss']) == pytest.approx((np.log(np.exp(logits).sum(1)) - own).mean())
  assert float(metrics['accuracy']) == (logits.argmax(1) == batch['label']).mean()


@pytest.mark.long
def test_without_gsam_updates_are_those_of_optax():
  optimizer = configs.optimizer(warmup_steps=2, sam_rho=0.3)
  state, _ = run(one_device(), 4, optimizer)
  schedule = make_schedule(optimizer, 20)
  theirs = optax.contrib.sam(
    make_optimizer(optimizer, schedule),
    optax.chain(optax.contrib.normalize(), optax.sgd(0.3)),
    opaque_mode=True,
  )
  params = jax.device_get(mixer_jax.init(CONFIG, jax.random.key(1)))
  params['head']['kernel'] = np.random.default_rng(2).normal(0, 0.3, (32, 10)).astype(np.float32)

  def loss(params, batch):
    logits = models.apply_in_training(CONFIG, params, batch['image'], jax.random.key(0))[0]
    return optax.softmax_cross_entropy_with_integer_labels(logits, batch['label']).mean()

  @jax.jit
  def step(params, their_state, batch):
    gradient = jax.grad(lambda params, _: loss(params, batch))
    updates, their_state = theirs.update(gradient(params, 0), their_state, params, grad_fn=gradient)
    return optax.apply_updates(params, updates), their_state

  their_state = theirs.init(params)
  for batch in batches(4):
    params, their_state = step(params, their_state, batch)
  ours, wanted = flatten(jax.device_get(state.params)), flatten(jax.device_get(params))
  for name in wanted:
    if not name.endswith('token_mixing/Dense_1/bias'):  # has no gradient: Adam scales up noise
      np.testing.assert_allclose(
        ours[name], wanted[name], rtol=0, atol=1e-4 * np.abs(wanted[name]).max(), err_msg=name
      )


# --- Sharded, accumulated, random ---------------------------------------------------------------


@functools.cache
def gradients_of_one() -> dict[str, np.ndarray]:
  return gradients(one_device(), bare(**GSAM))


@pytest.mark.parametrize(
  'sizes',
  [*MESHES[1:3], *(pytest.param(x, marks=pytest.mark.long) for x in MESHES[:1] + MESHES[3:])],
)
def test_gradients_equal_those_of_one_device(sizes):
  many = gradients(meshes.make_mesh(*sizes), bare(**GSAM))
  assert_same_gradients(gradients_of_one(), many, 1e-5)


FAMILIES = {
  'vit': models.ViTConfig(
    patch_size=4, num_blocks=1, hidden_dim=16, mlp_dim=32, num_heads=2, image_size=8,
    num_classes=4, dtype='float32',
  ),
  'resnet': models.ResNetConfig(
    stages='1,1', width=0.125, stem='cifar', groups=4, image_size=8, num_classes=4, dtype='float32'
  ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize('name', FAMILIES)
def test_other_families_are_trained_alike(name):
  config, mesh = FAMILIES[name], meshes.make_mesh(2, 2, 2)
  rng = np.random.default_rng(5)
  params = jax.tree.map(
    lambda leaf: leaf + rng.normal(0, 0.05, leaf.shape).astype(np.float32),
    jax.device_get(mixer_jax.init(config, jax.random.key(0))),
  )
  images = rng.uniform(-1, 1, (8, 8, 8, 3)).astype(np.float32)
  labels = rng.integers(0, 4, 8).astype(np.int32)

  def loss(params):
    logits = models.apply(config, params, images)
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()

  clean = jax.grad(loss)(params)
  norm = np.sqrt(sum((np.asarray(g, np.float64) ** 2).sum() for g in jax.tree.leaves(clean)))
  wanted = jax.grad(loss)(jax.tree.map(lambda p, g: p + 0.5 * g / norm, params, clean))
  optimizer = bare(sam_rho=0.5)
  schedule = make_schedule(optimizer, 20)
  transform = make_optimizer(optimizer, schedule)
  train_step = steps.make_train_step(
    config, transform, schedule, mesh, sam=make_sam(optimizer, schedule)
  )
  state = steps.state_from_params(params, transform, mesh)
  state, _ = train_step(state, meshes.put(mesh, {'image': images, 'label': labels}))
  before, after = flatten(params), flatten(jax.device_get(state.params))
  moved = {name: before[name].astype(np.float64) - after[name] for name in before}
  assert_same_gradients(
    {n: np.asarray(x, np.float64) for n, x in flatten(wanted).items()}, moved, 1e-5
  )


def test_it_differs_from_the_plain_gradient():
  plain, sam, gsam = (
    gradients(one_device(), bare(**fields))['stem/kernel']
    for fields in ({}, {'sam_rho': 0.3}, GSAM)
  )
  assert np.abs(plain - sam).max() > 0.05 * np.abs(plain).max()
  assert np.abs(gsam - sam).max() > 0.05 * np.abs(plain).max()


def test_accumulation_perturbs_by_the_gradient_of_the_whole_batch():
  cut = gradients(meshes.make_mesh(), bare(**GSAM), accumulate=2)
  assert_same_gradients(gradients_of_one(), cut, 1e-5)


@pytest.mark.long
def test_both_passes_draw_the_same_random_numbers():
  how = {
    'config': dataclasses.replace(CONFIG, stochastic_depth=0.5, dropout=0.5),
    'mixup': MixupConfig(0.5),
    'accumulate': 2,
  }
  plain = gradients(one_device(), **how)
  sam = gradients(one_device(), bare(sam_rho=1e-4), **how)
  for name, value in plain.items():
    scale = max(np.abs(value).max(), 1e-2)
    assert np.abs(sam[name] - value).max() <= 1e-2 * scale, name


# --- Fields -------------------------------------------------------------------------------------


def test_it_is_off_by_default():
  assert make_sam(configs.optimizer(), lambda step: 0.0) is None


@pytest.mark.parametrize('schedule', ['linear', 'cosine'])
def test_the_radius_follows_the_learning_rate(schedule):
  fields = {'schedule': schedule, 'warmup_steps': 10, 'end_factor': 0.01}
  optimizer = configs.optimizer(sam_rho=0.6, sam_rho_end=0.1, **fields)
  rate = make_schedule(optimizer, 110)
  sam = make_sam(optimizer, rate)
  assert sam
  radii = [float(sam.radius(step)) for step in (0, 5, 10, 60, 110)]
  between = 0.1 + 0.5 * (float(rate(60)) - 1e-5) / (1e-3 - 1e-5)
  rising = 0.1 + 0.5 * (5e-4 - 1e-5) / (1e-3 - 1e-5)
  assert radii == pytest.approx([0.1, rising, 0.6, between, 0.1], rel=1e-5)
  constant = make_sam(dataclasses.replace(optimizer, sam_rho_end=0.0), rate)
  assert constant
  assert [float(constant.radius(step)) for step in (0, 60, 110)] == [0.6] * 3


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'sam_rho': -0.1}, 'optimizer.sam_rho must be 0 or more'),
    ({'sam_rho': float('inf')}, 'optimizer.sam_rho must be 0 or more'),
    ({'sam_rho': 0.1, 'sam_alpha': -1.0}, 'optimizer.sam_alpha must be 0 or more'),
    ({'sam_alpha': 0.6}, r'sam_alpha=0.6 needs an optimizer.sam_rho above 0: .* or sam_alpha=0'),
    ({'sam_rho_end': 0.1}, 'sam_rho_end=0.1 needs an optimizer.sam_rho above 0'),
    ({'sam_rho': 0.1, 'sam_rho_end': 0.2}, r'sam_rho_end must be at most sam_rho \(0.1\), is 0.2'),
    ({'sam_rho': 0.2, 'sam_rho_end': 0.1, 'schedule': 'constant'}, 'a learning rate that decays'),
    ({'sam_rho': 0.2, 'sam_rho_end': 0.1, 'end_factor': 1.0}, 'a learning rate that decays'),
    ({'sam_rho': 0.2, 'sam_rho_end': 0.1, 'learning_rate': 0.0}, 'a learning rate that decays'),
  ],
)
def test_bad_fields_are_named(fields, message):
  with pytest.raises(UserError, match=message):
    configs.optimizer(**fields)
