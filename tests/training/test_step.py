"""The sharded step: the same on 1 and 8 devices, with accumulation, on every mesh."""

import dataclasses
import functools

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import make_optimizer, make_schedule
from mixer_jax.training.sam import make_sam
from tests.helpers import configs, factories

CONFIG = factories.tiny_mixer(hidden_dim=32, tokens_mlp_dim=16, channels_mlp_dim=64)
OPTIMIZER = configs.optimizer(warmup_steps=2)
ZERO_GRADIENT = 'token_mixing/Dense_1/bias'  # shifts all channels alike: LayerNorm removes it


def batches(count: int, batch_size: int = 32):
  rng = np.random.default_rng(0)
  for _ in range(count):
    yield {
      'image': rng.integers(0, 256, (batch_size, 16, 16, 3), dtype=np.uint8),
      'label': rng.integers(0, 10, batch_size).astype(np.int32),
    }


def run(mesh, count: int, optimizer=OPTIMIZER, config=CONFIG, **kwargs):
  """Final state and all metrics; the head begins random, so that gradients reach everywhere."""
  schedule = make_schedule(optimizer, 20)
  transform = make_optimizer(optimizer, schedule)
  params = jax.device_get(mixer_jax.init(config, jax.random.key(1)))
  params['head']['kernel'] = np.random.default_rng(2).normal(0, 0.3, (32, 10)).astype(np.float32)
  state = steps.state_from_params(params, transform, mesh)
  sam = make_sam(optimizer, schedule)
  train_step = steps.make_train_step(config, transform, schedule, mesh, sam=sam, **kwargs)
  history = []
  for batch in batches(count):
    state, metrics = train_step(state, meshes.put(mesh, batch))
    history.append({name: float(value) for name, value in metrics.items()})
  return state, history


def one_device():
  return meshes.make_mesh(devices=jax.devices()[:1])


# Plain SGD at rate 1 without clipping: the parameters move by exactly the gradient.
BARE = configs.optimizer(
  name='sgd',
  learning_rate=1.0,
  warmup_steps=0,
  schedule='constant',
  weight_decay=0.0,
  clip_norm=0.0,
  momentum=0.0,
)


def gradients(mesh, optimizer=BARE, **kwargs) -> dict[str, np.ndarray]:
  params = jax.device_get(mixer_jax.init(kwargs.get('config', CONFIG), jax.random.key(1)))
  params['head']['kernel'] = np.random.default_rng(2).normal(0, 0.3, (32, 10)).astype(np.float32)
  state, _ = run(mesh, 1, optimizer, **kwargs)
  before, after = flatten(params), flatten(jax.device_get(state.params))
  return {name: before[name].astype(np.float64) - after[name] for name in before}


def assert_same_gradients(a: dict, b: dict, tolerance: float):
  largest = max(np.abs(g).max() for g in a.values())
  for name in a:
    scale = max(np.abs(a[name]).max(), 1e-3 * largest)
    # Read off float32 parameters: their own rounding is allowed for.
    allowed = tolerance * scale + 2e-7 * max(1.0, np.abs(a[name]).max())
    assert np.abs(a[name] - b[name]).max() <= allowed, name


MESHES = [(8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)]


FRUGAL = {'config': dataclasses.replace(CONFIG, remat=True), 'accumulate': 2}
"""The ways to save memory, both at once."""


@functools.cache
def one_gradients():
  return gradients(one_device())


@functools.cache
def ten_steps_of_one():
  return run(one_device(), 10)


@pytest.mark.parametrize('how', [{}, FRUGAL], ids=['plain', 'frugal'])
@pytest.mark.parametrize('sizes', MESHES)
def test_first_gradients_equal_those_of_one_device(sizes, how):
  assert_same_gradients(one_gradients(), gradients(meshes.make_mesh(*sizes), **how), 1e-5)


@pytest.mark.parametrize(
  'how',
  [pytest.param({}, id='plain'), pytest.param(FRUGAL, id='frugal', marks=pytest.mark.long)],
)
@pytest.mark.parametrize('sizes', MESHES)
def test_ten_steps_equal_those_of_one_device(sizes, how):
  one, one_history = ten_steps_of_one()
  many, history = run(meshes.make_mesh(*sizes), 10, **how)
  assert history[-1]['loss'] == pytest.approx(one_history[-1]['loss'], abs=1e-6)
  a, b = flatten(jax.device_get(one.params)), flatten(jax.device_get(many.params))
  for name in a:
    if not name.endswith(ZERO_GRADIENT):
      assert np.abs(a[name] - b[name]).max() <= 1e-4 * np.abs(a[name]).max(), name
  # Adam turns the noise in that one bias into updates: compare what it does to logits.
  image = next(batches(1))['image']
  still = lambda params: {
    name: np.zeros_like(x) if name.endswith(ZERO_GRADIENT) else x for name, x in params.items()
  }
  from mixer_jax.models.parameters import unflatten

  np.testing.assert_allclose(
    mixer_jax.apply(CONFIG, unflatten(still(a)), image),
    mixer_jax.apply(CONFIG, unflatten(still(b)), image),
    atol=1e-4,
  )


@pytest.mark.parametrize('accumulate', [2, pytest.param(4, marks=pytest.mark.long)])
def test_accumulation_gives_the_gradient_of_the_whole_batch(accumulate):
  whole, cut = gradients(meshes.make_mesh()), gradients(meshes.make_mesh(), accumulate=accumulate)
  assert_same_gradients(whole, cut, 1e-5)
  _, history = run(meshes.make_mesh(), 1)
  _, cut_history = run(meshes.make_mesh(), 1, accumulate=accumulate)
  for name in ('loss', 'accuracy', 'grad_norm'):
    assert cut_history[0][name] == pytest.approx(history[0][name], rel=1e-5)


def test_randomness_follows_seed_and_step_on_any_mesh():
  config = dataclasses.replace(CONFIG, stochastic_depth=0.5, dropout=0.2)
  first = gradients(one_device(), config=config, seed=3)
  assert_same_gradients(first, gradients(meshes.make_mesh(2, 4, 1), config=config, seed=3), 1e-5)
  other = gradients(one_device(), config=config, seed=4)
  assert np.abs(first['stem/kernel'] - other['stem/kernel']).max() > 1e-4
  assert_same_gradients(
    first,
    gradients(meshes.make_mesh(), config=dataclasses.replace(config, remat=True), seed=3),
    1e-5,
  )


def test_metrics_are_those_of_the_batch_before_the_update():
  _, history = run(meshes.make_mesh(), 3)
  batch = next(batches(1))
  params = jax.device_get(mixer_jax.init(CONFIG, jax.random.key(1)))
  params['head']['kernel'] = np.random.default_rng(2).normal(0, 0.3, (32, 10)).astype(np.float32)
  logits = np.asarray(mixer_jax.apply(CONFIG, params, batch['image']), np.float64)
  losses = np.log(np.exp(logits).sum(1)) - logits[np.arange(32), batch['label']]
  assert history[0]['loss'] == pytest.approx(losses.mean(), rel=1e-5)
  assert history[0]['accuracy'] == pytest.approx((logits.argmax(1) == batch['label']).mean())
  grads = gradients(meshes.make_mesh())
  norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
  assert history[0]['grad_norm'] == pytest.approx(norm, rel=1e-4)
  rates = [row['learning_rate'] for row in history]
  assert rates == pytest.approx([0, 5e-4, 1e-3])


def test_the_state_is_donated_and_counts():
  mesh = meshes.make_mesh()
  schedule = make_schedule(OPTIMIZER, 20)
  transform = make_optimizer(OPTIMIZER, schedule)
  state = steps.init_state(CONFIG, transform, mesh, seed=0)
  assert int(state.step) == 0
  train_step = steps.make_train_step(CONFIG, transform, schedule, mesh)
  new, _ = train_step(state, meshes.put(mesh, next(batches(1))))
  assert int(new.step) == 1
  assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def test_init_is_the_same_on_every_mesh():
  transform = make_optimizer(OPTIMIZER, make_schedule(OPTIMIZER, 20))
  one = steps.init_state(CONFIG, transform, one_device(), seed=5)
  many = steps.init_state(CONFIG, transform, meshes.make_mesh(2, 2, 2), seed=5)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(one), jax.device_get(many))
  held = many.params['MixerBlock_0']['channel_mixing']['Dense_0']['kernel']
  assert held.addressable_shards[0].data.shape == (16, 32)  # of (32, 64): nobody holds all
