"""What makes a step slow, in counts, which unlike seconds are the same on every machine."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.bench import programs
from mixer_jax.errors import PreemptedError
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel.compiled import abstract_batch
from mixer_jax.planning.collectives import collectives
from mixer_jax.training.loop import Verdict, train
from tests.helpers import configs, factories

# Every axis that may be split is divisible by eight.
CONFIG = factories.tiny_mixer(
  num_blocks=1, hidden_dim=64, tokens_mlp_dim=32, channels_mlp_dim=256, num_classes=16
)
BATCH = 64  # images; of a few, XLA would rather move the head's activations than its kernel
OPTIMIZER = configs.optimizer(warmup_steps=2)
GSAM = configs.optimizer(warmup_steps=2, sam_rho=0.1, sam_alpha=0.5)


def compiled(program: programs.Program, config, mesh, size: int) -> Any:
  shapes = abstract_batch(mesh, size, config.image_size, masked=program.masked)
  return program.function.lower(program.abstract, shapes).compile()


def moved(*sizes: int, optimizer=OPTIMIZER) -> tuple[dict, dict]:
  """What a step moves on a mesh of these sizes; and its parameters, by name."""
  mesh = meshes.make_mesh(*sizes)
  program = programs.training(CONFIG, mesh, optimizer, 'softmax')
  hlo = compiled(program, CONFIG, mesh, BATCH).as_text()
  return collectives(hlo), flatten(program.abstract.params)


def whole_bytes(params: dict, axis: str) -> tuple[int, int]:
  """(count, bytes) of the parameters that are split over an axis."""
  split = [leaf for leaf in params.values() if axis in leaf.sharding.spec]
  return len(split), sum(4 * leaf.size for leaf in split)


def test_a_split_batch_costs_one_all_reduce_of_the_gradients():
  collected, params = moved(8, 1, 1)
  gradients = sum(4 * leaf.size for leaf in params.values())
  assert collected == {'all-reduce': {'count': 1, 'bytes': gradients + 8}}  # and loss and accuracy


def test_fully_sharded_parameters_are_gathered_once():
  collected, params = moved(1, 8, 1)
  count, size = whole_bytes(params, 'fsdp')
  assert set(collected) == {'all-gather', 'all-reduce'}
  assert collected['all-gather'] == {'count': count, 'bytes': size}
  gradients = sum(4 * leaf.size for leaf in params.values())
  assert collected['all-reduce']['bytes'] == pytest.approx(gradients, rel=0.01)


def test_split_hidden_widths_cost_one_all_reduce_of_activations_an_mlp_and_pass():
  collected, _ = moved(1, 1, 8)
  assert set(collected) == {'all-reduce'}
  assert collected['all-reduce']['count'] == 2 * 2 * CONFIG.num_blocks  # forward and backward
  activations = 4 * BATCH * CONFIG.num_tokens * CONFIG.hidden_dim
  assert collected['all-reduce']['bytes'] == pytest.approx(4 * activations, rel=0.01)


def test_on_all_three_axes_activations_are_not_exchanged():
  collected, params = moved(2, 2, 2)
  _, size = whole_bytes(params, 'fsdp')
  assert 'all-to-all' not in collected
  assert collected['all-gather']['bytes'] <= size
  # The compiler turns a few small gradients over between neighbours, as many for any batch.
  assert collected.get('collective-permute', {'bytes': 0})['bytes'] < size / 8


@pytest.mark.parametrize(
  'sizes',
  [
    (1, 8, 1),
    *(pytest.param(x, marks=pytest.mark.long) for x in ((8, 1, 1), (1, 1, 8), (2, 2, 2))),
  ],
)
def test_sharpness_aware_minimisation_moves_twice_as_much_and_gathers_nothing_else(sizes):
  (plain, _), (twice, _) = moved(*sizes), moved(*sizes, optimizer=GSAM)
  assert set(twice) == set(plain)
  for kind, one in plain.items():
    if kind == 'all-reduce':  # moreover a few norms; the second loss is not needed
      assert abs(twice[kind]['bytes'] - 2 * one['bytes']) <= 64
    else:
      assert twice[kind] == {'count': 2 * one['count'], 'bytes': 2 * one['bytes']}


@pytest.fixture(scope='module')
def flops() -> dict[str, float]:
  """Of programs on one device, by the compiler; `model` is our own count of a forward pass."""
  config = dataclasses.replace(
    CONFIG,
    num_blocks=2,
    hidden_dim=256,
    tokens_mlp_dim=128,
    channels_mlp_dim=1024,
    image_size=32,
  )
  mesh, size = meshes.make_mesh(devices=jax.devices()[:1]), 4
  again = dataclasses.replace(config, remat=True)
  compared = {
    'forward': (config, programs.forward(config, mesh)),
    'step': (config, programs.training(config, mesh, OPTIMIZER, 'softmax')),
    'sam': (config, programs.training(config, mesh, GSAM, 'softmax')),
    'remat': (again, programs.training(again, mesh, OPTIMIZER, 'softmax')),
  }
  counts = {
    name: compiled(program, of, mesh, size).cost_analysis()['flops'] / size
    for name, (of, program) in compared.items()
  }
  # An update is once a batch, however small: about a dozen operations a parameter.
  update = 12 * models.num_params(config) / size
  for name, updates in {'step': 1, 'remat': 1, 'sam': 2}.items():  # of which 'sam' has two
    counts[name] -= updates * update
  return {**counts, 'model': models.forward_flops(config)}


def test_a_step_multiplies_no_more_than_the_model_does(flops):
  assert 1 <= flops['forward'] / flops['model'] <= 1.05
  assert 0.95 <= flops['step'] / (3 * flops['model']) <= 1.05
  assert flops['step'] / flops['forward'] == pytest.approx(3, rel=0.05)


def test_sharpness_aware_minimisation_is_two_steps(flops):
  assert flops['sam'] / flops['step'] == pytest.approx(2, rel=0.02)


def test_remat_is_one_forward_pass_more(flops):
  assert 1.2 <= flops['remat'] / (3 * flops['model']) <= 1.4


class Quiet:
  """Hooks that do nothing."""

  def step(self, step, metrics):
    """Nothing."""

  def evaluate(self, step, state):
    return Verdict(save=False, stop=False)

  def should_stop(self, step):
    return False

  def stopped(self, step):
    return PreemptedError()

  def save(self, step, state):
    """Nothing."""


def test_what_the_loop_would_move_unasked_is_refused():
  step = jax.jit(lambda state, batch: (state, {'loss': batch.sum(), 'grad_norm': batch.sum()}))
  how: Any = {
    'first_step': 0,
    'evaluated_step': 0,
    'total_steps': 2,
    'eval_every': 0,
    'save_every': 0,
  }
  state: Any = jax.device_put(np.float32(0))
  there: Any = iter([jax.device_put(np.ones(3, np.float32))] * 2)
  train(state, step, there, Quiet(), **how)
  on_the_host: Any = iter([np.ones(3, np.float32)] * 2)
  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    train(state, step, on_the_host, Quiet(), **how)

  def reads_back(state, batch):  # as a print of the loss would, and wait for the device
    _, metrics = step(state, batch)
    return state, {**metrics, 'loss': types.SimpleNamespace(value=batch + 1.0).value.sum()}

  with pytest.raises(Exception, match='Disallowed host-to-device transfer'):
    train(state, reads_back, iter([jax.device_put(np.ones(3, np.float32))] * 2), Quiet(), **how)
