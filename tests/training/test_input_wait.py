"""The measured share of waiting: exact in a world of made-up time, and about right on devices."""

import itertools
import threading
import time
import types
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.training.input_wait import InputWait
from mixer_jax.training.loop import Verdict, train

STEP = 1.0  # seconds on the devices


class World:
  """A loop, its devices and the thread that follows them, each with a time of its own.

  It is the batches, the step and the hooks of the loop. The time of the following thread is that of
  the last array it has waited for.
  """

  def __init__(self, *, read=0.0, transfer=0.0, log=0.0, first_read=0.0, compilation=0.0, fails=0):
    self.read, self.transfer, self.log, self.fails = read, transfer, log, fails
    self.extra = {'read': first_read, 'step': compilation}
    self.loop = self.devices = self.follower = 0.0
    self.steps = 0

  def clock(self) -> float:
    return self.loop if threading.current_thread() is threading.main_thread() else self.follower

  def __next__(self):
    self.loop += self.read + self.extra.pop('read', 0)
    return {'image': Array(self, self.loop + self.transfer)}

  def train_step(self, state, batch):
    self.loop += self.extra.pop('step', 0)
    self.devices = max(self.devices, batch['image'].there, self.loop) + STEP
    self.steps += 1
    end = Array(self, self.devices, fails=self.steps == self.fails)
    return types.SimpleNamespace(step=self.steps), {'loss': end, 'grad_norm': end}

  def step(self, step, metrics):
    self.loop += self.log

  def should_stop(self, step):
    return False

  def evaluate(self, step, state):
    self.loop = self.devices = max(self.loop, self.devices) + 1000
    self.extra['read'] = 1000.0  # and the next batch is late
    return Verdict(save=False, stop=False)

  def save(self, step, state):
    self.loop += 1000


class Array:
  """An array that is there from a moment on."""

  def __init__(self, world: World, there: float, *, fails: bool = False):
    self.world, self.there, self.fails = world, there, fails

  def is_ready(self):
    return self.there <= self.world.follower

  def block_until_ready(self):
    self.world.follower = max(self.world.follower, self.there)
    if self.fails:
      raise RuntimeError('the devices fail')

  def __array__(self, *_, **__):
    self.world.loop = max(self.world.loop, self.there)
    return np.ones((), np.float32)


def share_of(
  world: Any, steps=41, eval_every=0, save_every=0, wait: InputWait | None = None
) -> float | None:
  wait, state = wait or InputWait(world.clock), cast(Any, None)
  train(
    state, world.train_step, world, world,
    first_step=0, evaluated_step=0, total_steps=steps, eval_every=eval_every,
    save_every=save_every, input_wait=wait,
  )  # fmt: skip
  join()
  return wait.share()


def join():
  for thread in threading.enumerate():
    if thread.name == 'input wait':
      thread.join()


@pytest.mark.parametrize(
  ('times', 'expected'),
  [
    ({'read': 3.0}, 2 / 3),  # a step per 3 s
    ({'read': 100.0}, 0.99),
    ({'read': STEP / 2}, 0),
    ({'read': STEP}, 0),
    ({}, 0),
    # Two transfers are on their way at a time, so that two steps take 3 + 1 s.
    ({'transfer': 3.0}, 1 / 2),
    ({'transfer': STEP / 2}, 0),
    # The devices are idle for 2 s of 3 because of the loop itself, and for .5 s of 3.5.
    ({'log': 3.0}, 0),
    ({'log': 3.0, 'read': 0.5}, 0.5 / 3.5),
  ],
)
def test_devices_wait_from_the_end_of_a_step_to_the_arrival_of_a_batch(times, expected):
  found = share_of(World(**times))
  assert found == pytest.approx(expected, abs=0.002)  # the first step of all comes sooner


@pytest.mark.parametrize('read', [0.5, 3.0])
def test_first_batch_compilation_evaluations_and_saves_do_not_count(read):
  expected = share_of(World(read=read))
  assert share_of(World(read=read, first_read=500.0, compilation=500.0)) == expected
  assert share_of(World(read=read), eval_every=5, save_every=7) == pytest.approx(expected)


def test_nothing_is_known_before_the_second_step_or_if_every_step_is_evaluated():
  assert share_of(World(read=3.0), steps=1) is None
  assert share_of(World(read=3.0), eval_every=1) is None


def test_a_share_is_that_since_the_last_one():
  world = World(read=3.0)
  wait = InputWait(world.clock)
  assert share_of(world, wait=wait) == pytest.approx(2 / 3)
  assert wait.share() is None
  world.read = 0.5
  assert share_of(world, wait=wait) == 0


def test_an_error_of_the_devices_is_left_to_the_loop():
  world = World(read=3.0, fails=20)
  assert share_of(world) == pytest.approx(2 / 3)
  assert world.steps == 41


@pytest.mark.parametrize(
  ('seconds', 'products', 'low', 'high'), [(0, 20, 0, 0.5), (0.1, 1, 0.5, 1)]
)
def test_share_on_real_devices(seconds, products, low, high):
  @jax.jit
  def train_step(x, batch):
    y = jax.lax.fori_loop(0, products, lambda _, y: y @ x, x + batch['image'])
    return x, {'loss': y[0, 0], 'grad_norm': y[0, 1]}

  def batches():
    for number in itertools.count():
      time.sleep(seconds)
      yield {'image': jax.device_put(np.float32(number))}

  hooks: Any = World()
  state: Any = jnp.eye(400) / 2
  wait = InputWait()
  train(
    state, train_step, batches(), hooks,
    first_step=0, evaluated_step=0, total_steps=6, eval_every=0, save_every=0, input_wait=wait,
  )  # fmt: skip
  join()
  share = wait.share()
  assert share is not None
  assert low <= share < high
