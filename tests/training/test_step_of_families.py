"""The sharded step of a ViT and of a ResNet: the same on 1 and 8 devices, on every mesh."""

import collections
import dataclasses
import functools
import re

import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel.compiled import abstract_batch
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import make_optimizer, make_schedule
from tests.helpers import configs, factories
from tests.training.test_step import (
  MESHES,
  OPTIMIZER,
  assert_same_gradients,
  assert_same_run,
  gradients,
  one_device,
  run,
)

VIT = factories.tiny_vit(hidden_dim=32, mlp_dim=64, num_heads=8)
RESNET = models.ResNetConfig('1,1', 0.125, 'cifar', 4, image_size=16, num_classes=10)
CONFIGS = {
  'token': VIT,
  'gap': dataclasses.replace(VIT, pooling='gap', position='sincos2d'),
  'map': dataclasses.replace(VIT, pooling='map'),
  'representation': dataclasses.replace(VIT, representation_size=16, gelu='erf'),
  'three heads': dataclasses.replace(VIT, hidden_dim=24, num_heads=3),  # `model` divides no 3
  'resnet': RESNET,
  'large stem': dataclasses.replace(RESNET, stem='imagenet', stages='2,1'),
}
# A bias of all keys shifts all scores of a query alike, which softmax does not see.
ZERO_GRADIENT = 'key/bias'

# As BiT is trained, for 32 images. Adam would turn the noise in small gradients into updates.
SGD = configs.optimizer(
  name='sgd', learning_rate=0.03 * 32 / 256, warmup_steps=2, weight_decay=1e-4
)


def cases(*brief: tuple[str, tuple[int, int, int]]) -> list:
  """Every config on every mesh; all but the `brief` ones are long tests."""
  return [
    pytest.param(
      *(name, sizes),
      id=f'{name}-{"x".join(map(str, sizes))}',
      marks=() if (name, sizes) in brief else pytest.mark.long,
    )
    for name in CONFIGS
    for sizes in MESHES
  ]


@functools.cache
def gradients_of_one(name: str) -> dict[str, np.ndarray]:
  return gradients(one_device(), config=CONFIGS[name])


def ten_steps(name: str, mesh):
  config = CONFIGS[name]
  optimizer = SGD if isinstance(config, models.ResNetConfig) else OPTIMIZER
  return run(mesh, 10, optimizer, config=config)


@functools.cache
def ten_steps_of_one(name: str):
  return ten_steps(name, one_device())


@pytest.mark.parametrize(('name', 'sizes'), cases(('token', (2, 2, 2)), ('resnet', (4, 2, 1))))
def test_first_gradients_equal_those_of_one_device(name, sizes):
  found = gradients(meshes.make_mesh(*sizes), config=CONFIGS[name])
  assert_same_gradients(gradients_of_one(name), found, 1e-5)


@pytest.mark.parametrize(('name', 'sizes'), cases())
def test_gradients_that_save_memory_equal_those_of_one_device(name, sizes):
  config = dataclasses.replace(CONFIGS[name], remat=True)
  found = gradients(meshes.make_mesh(*sizes), config=config, accumulate=2)
  assert_same_gradients(gradients_of_one(name), found, 1e-5)


@pytest.mark.parametrize(('name', 'sizes'), cases())
def test_ten_steps_equal_those_of_one_device(name, sizes):
  many = ten_steps(name, meshes.make_mesh(*sizes))
  assert_same_run(CONFIGS[name], ten_steps_of_one(name), many, ZERO_GRADIENT)


@pytest.mark.long
@pytest.mark.parametrize('sizes', MESHES)
def test_dropout_and_stochastic_depth_do_not_depend_on_the_mesh(sizes):
  config = dataclasses.replace(VIT, stochastic_depth=0.5, dropout=0.2)
  first = gradients(one_device(), config=config, seed=3)
  mesh = meshes.make_mesh(*sizes)
  assert_same_gradients(first, gradients(mesh, config=config, seed=3), 1e-5)
  remat = dataclasses.replace(config, remat=True)
  assert_same_gradients(first, gradients(mesh, config=remat, seed=3), 1e-5)
  other = gradients(mesh, config=config, seed=4)
  assert np.abs(first['embedding/kernel'] - other['embedding/kernel']).max() > 1e-4


def test_parameters_are_gathered_and_heads_stay_where_they_are():
  mesh = meshes.make_mesh(2, 2, 2)
  schedule = make_schedule(OPTIMIZER, 20)
  transform = make_optimizer(OPTIMIZER, schedule)
  step = steps.make_train_step(VIT, transform, schedule, mesh)
  state = steps.abstract_state(VIT, transform, mesh)
  program = step.lower(state, abstract_batch(mesh, 256, VIT.image_size)).compile()
  moved = collections.defaultdict(set)
  for line in program.as_text().splitlines():
    if match := re.search(r' = (.*) (all-[a-z]+|reduce-scatter|collective-permute)\(', line):
      moved[match[2]].update(re.findall(r'\w+\[[\d,]*\]', match[1]))
  rows, tokens = 256 // 4, VIT.num_tokens
  activations = {
    kind: {a for a in arrays if a.count(f'[{rows},')} for kind, arrays in moved.items()
  }
  assert moved.keys() >= {'all-gather', 'all-reduce'}
  assert {kind for kind, arrays in activations.items() if arrays} == {'all-reduce'}
  # After attention, after the MLP, and of their inputs in the backward pass.
  assert activations['all-reduce'] == {f'f32[{rows},{tokens},{VIT.hidden_dim}]'}
