"""The two optimizers against the update rules of the papers, in float64 NumPy."""

import jax
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


def authors_rate(step: int, total: int, warmup: int, end: float) -> float:
  """Return the rate as a share of its peak: big_vision, `create_learning_rate_schedule`, linear."""
  progress = np.clip((step - warmup) / (total - warmup), 0, 1)
  return (end + (1 - end) * (1 - progress)) * min(1, step / warmup)


@pytest.mark.parametrize('end', [0.0, 1e-5])
def test_the_linear_schedule_is_the_authors_at_every_step(end):
  schedule = make_schedule(configs.optimizer(warmup_steps=20, end_factor=end), 90)
  got = [float(schedule(step)) for step in range(91)]
  wanted = [1e-3 * authors_rate(step, 90, 20, end) for step in range(91)]
  np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-10)
  assert got[90] == pytest.approx(end * 1e-3, rel=1e-4)
  assert got[0] == 0  # so the first update changes nothing, here as there


def test_a_cosine_ends_at_a_share_of_its_peak():
  schedule = make_schedule(configs.optimizer(warmup_steps=2, schedule='cosine', end_factor=0.1), 12)
  assert float(schedule(7)) == pytest.approx(1e-3 * (0.1 + 0.9 / 2))
  assert float(schedule(12)) == pytest.approx(1e-4)


@pytest.mark.parametrize(
  ('total', 'warmup', 'decays'), [(500, 100, (200, 300, 400)), (10_000, 500, (3000, 6000, 9000))]
)
def test_steps_are_those_of_bits_rule(total, warmup, decays):
  shares = tuple(step / total for step in decays)
  config = configs.optimizer(
    learning_rate=3e-3, warmup_steps=warmup, schedule='steps', decay_at=shares
  )
  schedule = make_schedule(config, total)
  steps = np.array([0, 1, warmup // 2, warmup, *decays, *(d - 1 for d in decays), total - 1])
  wanted = 3e-3 * np.minimum(steps / warmup, 1)
  for decay in decays:
    wanted[steps >= decay] /= 10
  rates = [float(schedule(step)) for step in steps]
  np.testing.assert_allclose(rates, wanted, rtol=1e-6, atol=1e-9)
  # A run of a few steps, whose decays fall together, ends at the same rate.
  short = make_schedule(configs.optimizer(warmup_steps=0, schedule='steps', decay_at=shares), 2)
  assert float(short(2)) == pytest.approx(1e-6)
  # One whose warm-up ends after some of them has made up for these.
  late = make_schedule(
    configs.optimizer(warmup_steps=50, schedule='steps', decay_at=(0.2, 0.4, 0.8)), 100
  )
  rates = [float(late(step)) for step in (25, 50, 79, 80)]
  np.testing.assert_allclose(rates, [5e-4, 1e-5, 1e-5, 1e-6], rtol=1e-6)


def test_coupled_decay_of_sgd_is_ten_times_as_large_a_decoupled_one():
  # BiT's pre-training adds 1e-4 of the parameters to the gradient (L2). Momentum .9 sums ten of
  # them, so that the same is subtracted by 1e-3 here, once the rate is steady.
  config = configs.optimizer(name='sgd', weight_decay=1e-3, clip_norm=0.0)
  ours = make_optimizer(config, lambda _: 0.48, decayed=lambda _: True)
  theirs = optax.chain(optax.add_decayed_weights(1e-4), optax.sgd(0.48, momentum=0.9))
  params = {'kernel': jnp.float32(PARAMS['layer']['kernel'])}
  zeros = jax.tree.map(jnp.zeros_like, params)

  def after(optimizer, steps=500):
    def step(_, carry):
      now, state = carry
      updates, state = optimizer.update(zeros, state, now)
      return optax.apply_updates(now, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]['kernel']

  np.testing.assert_allclose(after(ours), after(theirs), rtol=0.01)
  assert not np.allclose(after(ours), params['kernel'], rtol=0.1)


@pytest.mark.parametrize('rate', [1e-3, 3e-3])
def test_decay_that_does_not_follow_the_rate_is_the_authors_chain(rate):
  def schedule(step):
    return jnp.float32(0.5 ** jnp.minimum(step, 3))

  config = configs.optimizer(learning_rate=rate, weight_decay=1e-4, weight_decay_times='schedule')
  params = {'layer': {'kernel': jnp.float32(PARAMS['layer']['kernel'])}}
  mask = lambda params: {'layer': {'kernel': True}}
  ours = make_optimizer(config, lambda step: rate * schedule(step), decayed=mask)
  # The order of big_vision's `optax.make`.
  theirs = optax.chain(
    optax.clip_by_global_norm(1.0),
    optax.scale_by_adam(),
    optax.scale(rate),
    optax.add_decayed_weights(1e-4),
    optax.scale_by_schedule(schedule),
    optax.scale(-1.0),
  )
  own, other = ours.init(params), theirs.init(params)
  for grads in GRADS:
    grads = {'layer': {'kernel': jnp.float32(grads['layer']['kernel'])}}
    got, own = ours.update(grads, own, params)
    wanted, other = theirs.update(grads, other, params)
    np.testing.assert_allclose(got['layer']['kernel'], wanted['layer']['kernel'], rtol=2e-6)
  usual = make_optimizer(configs.optimizer(learning_rate=rate), schedule, decayed=mask)
  usual, _ = usual.update(grads, usual.init(params), params)
  assert rate == 1e-3 or not np.allclose(usual['layer']['kernel'], got['layer']['kernel'])


def test_momentum_can_be_kept_in_bfloat16_as_in_the_authors_fine_tuning():
  config = configs.optimizer(name='sgd', weight_decay=0.0, clip_norm=0.0, momentum_dtype='bfloat16')
  ours = make_optimizer(config, lambda _: 0.1)
  theirs = optax.sgd(0.1, momentum=0.9, accumulator_dtype='bfloat16')
  params = {'kernel': jnp.float32(PARAMS['layer']['kernel'])}
  own, other = ours.init(params), theirs.init(params)
  rounded = lambda array: np.asarray(jnp.asarray(array, jnp.bfloat16), np.float32)
  kept = np.zeros((4, 3), np.float32)
  for grads in GRADS:
    grads = {'kernel': jnp.float32(grads['layer']['kernel'])}
    got, own = ours.update(grads, own, params)
    wanted, other = theirs.update(grads, other, params)
    np.testing.assert_array_equal(got['kernel'], wanted['kernel'])
    moved = grads['kernel'] + rounded(rounded(np.float32(0.9)) * kept)
    np.testing.assert_allclose(got['kernel'], -0.1 * moved, rtol=1e-6, atol=1e-8)
    kept = rounded(moved)
  assert [leaf.dtype for leaf in jax.tree.leaves(own) if leaf.ndim] == [jnp.bfloat16]


def test_adams_first_moment_can_be_kept_in_bfloat16_as_in_augreg():
  config = configs.optimizer(weight_decay=0.0, clip_norm=0.0, momentum_dtype='bfloat16')
  ours = make_optimizer(config, lambda _: 0.1)
  params = {'kernel': jnp.float32(PARAMS['layer']['kernel'])}
  state = ours.init(params)
  rounded = lambda array: np.asarray(jnp.asarray(array, jnp.bfloat16), np.float64)
  kept, second = np.zeros((4, 3)), np.zeros((4, 3))
  for t, grads in enumerate(GRADS, 1):
    gradient = grads['layer']['kernel']
    got, state = ours.update({'kernel': jnp.float32(gradient)}, state, params)
    moment = 0.1 * gradient + rounded(rounded(0.9) * kept)
    second = 0.999 * second + 0.001 * gradient**2
    wanted = -0.1 * moment / (1 - 0.9**t) / (np.sqrt(second / (1 - 0.999**t)) + 1e-8)
    np.testing.assert_allclose(got['kernel'], wanted, rtol=2e-5)
    kept = rounded(moment)
  kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(state) if leaf.ndim}
  assert kinds == {'bfloat16', 'float32'}


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
    ({'schedule': 'steps'}, "decay_at and optimizer.schedule='steps' need each other"),
    ({'decay_at': (0.5,)}, "decay_at and optimizer.schedule='steps' need each other"),
    ({'schedule': 'steps', 'decay_at': (0.5, 0.3)}, 'must be shares of all steps between 0 and 1'),
    ({'schedule': 'steps', 'decay_at': (30.0, 60.0)}, 'must be shares of all steps'),
    ({'learning_rate': -1.0}, 'optimizer.learning_rate must be 0 or more'),
    ({'weight_decay': float('nan')}, 'optimizer.weight_decay must be 0 or more'),
    ({'momentum_dtype': 'float16'}, "momentum_dtype must be 'float32' or 'bfloat16'"),
    ({'end_factor': 1.5}, r'optimizer.end_factor must be in \[0, 1\]'),
    (
      {'weight_decay_times': 'schedule', 'learning_rate': 0.0},
      'needs an optimizer.learning_rate above 0',
    ),
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
