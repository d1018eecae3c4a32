"""The two optimizers against the update rules of the papers, in float64 NumPy."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mixer_jax.errors import UserError
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from tests.helpers import configs

RNG = np.random.default_rng(0)
PARAMS = {
  'layer': {'kernel': RNG.normal(size=(4, 3)), 'bias': RNG.normal(size=3)},
  'norm': {'scale': RNG.normal(size=3)},
}
PATHS = [('layer', 'kernel'), ('layer', 'bias'), ('norm', 'scale')]
GRADS = [
  {
    'layer': {'kernel': RNG.normal(size=(4, 3)), 'bias': RNG.normal(size=3)},
    'norm': {'scale': RNG.normal(size=3)},
  }
  for _ in range(4)
]


def run(config: OptimizerConfig, total_steps: int):
  kernels = lambda params: {
    layer: {name: name == 'kernel' for name in leaves} for layer, leaves in params.items()
  }
  optimizer = make_optimizer(config, make_schedule(config, total_steps), decayed=kernels)
  to_jax = lambda tree: {
    a: {b: jnp.float32(x) for b, x in inner.items()} for a, inner in tree.items()
  }
  params = to_jax(PARAMS)
  state = optimizer.init(params)
  for grads in GRADS:
    updates, state = optimizer.update(to_jax(grads), state, params)
    params = optax.apply_updates(params, updates)
  return params


def clipped(grads):
  norm = np.sqrt(sum((grads[a][b] ** 2).sum() for a, b in PATHS))
  return {(a, b): grads[a][b] / max(norm, 1) for a, b in PATHS}


def test_adam_with_decoupled_decay_of_kernels():
  config = configs.optimizer(learning_rate=0.1, warmup_steps=2, weight_decay=0.3)
  rates = [0, 0.05, 0.1, 0.1 * 3 / 4]  # warm-up over 2, then linearly to 0 over 4
  want = {(a, b): PARAMS[a][b].copy() for a, b in PATHS}
  m, v = dict.fromkeys(PATHS, 0.0), dict.fromkeys(PATHS, 0.0)
  for t, (grads, rate) in enumerate(zip(GRADS, rates, strict=True), 1):
    for path, g in clipped(grads).items():
      m[path] = 0.9 * m[path] + 0.1 * g
      v[path] = 0.999 * v[path] + 0.001 * g**2
      step = m[path] / (1 - 0.9**t) / (np.sqrt(v[path] / (1 - 0.999**t)) + 1e-8)
      decay = 0.3 * want[path] if path[1] == 'kernel' else 0
      want[path] -= rate * (step + decay)
  got = run(config, total_steps=6)
  for a, b in PATHS:
    np.testing.assert_allclose(got[a][b], want[a, b], rtol=2e-5, atol=2e-6)


def test_momentum_sgd_with_cosine():
  config = configs.optimizer(
    name='sgd', learning_rate=0.1, warmup_steps=1, schedule='cosine', weight_decay=0.0
  )
  rates = [0, 0.1, 0.1 * (1 + np.cos(np.pi / 3)) / 2, 0.1 * (1 + np.cos(2 * np.pi / 3)) / 2]
  want = {(a, b): PARAMS[a][b].copy() for a, b in PATHS}
  momentum = dict.fromkeys(PATHS, 0.0)
  for grads, rate in zip(GRADS, rates, strict=True):
    for path, g in clipped(grads).items():
      momentum[path] = 0.9 * momentum[path] + g
      want[path] = want[path] - rate * momentum[path]
  got = run(config, total_steps=4)
  for a, b in PATHS:
    np.testing.assert_allclose(got[a][b], want[a, b], rtol=2e-5, atol=2e-6)


def test_schedules_start_at_zero_peak_and_end_at_zero():
  for name in ('linear', 'cosine'):
    schedule = make_schedule(configs.optimizer(warmup_steps=10, schedule=name), 100)
    assert float(schedule(0)) == 0
    assert float(schedule(10)) == pytest.approx(1e-3)
    assert float(schedule(100)) == pytest.approx(0, abs=1e-9)
  flat = make_schedule(configs.optimizer(warmup_steps=0, schedule='constant'), 5)
  assert float(flat(0)) == float(flat(5)) == pytest.approx(1e-3)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'name': 'lion'}, "optimizer.name must be 'adam' or 'sgd'"),
    ({'schedule': 'step'}, 'optimizer.schedule must be'),
    ({'learning_rate': -1.0}, 'optimizer.learning_rate must be 0 or more'),
    ({'weight_decay': float('nan')}, 'optimizer.weight_decay must be 0 or more'),
    ({'b1': 2.0}, r'optimizer.b1 must be in \[0, 1\)'),
    ({'warmup_steps': 2.5}, 'optimizer.warmup_steps must be 0 or more'),
  ],
)
def test_bad_fields_are_named(fields, message):
  with pytest.raises(UserError, match=message):
    configs.optimizer(**fields)


def test_a_run_shorter_than_its_warm_up_only_rises():
  schedule = make_schedule(configs.optimizer(warmup_steps=100), 60)
  rates = [float(schedule(step)) for step in (0, 30, 60)]
  assert rates == pytest.approx([0, 3e-4, 6e-4])
