"""Meshes, sharding rules, and how batches are shared out."""

import dataclasses
import types
from typing import Any

import jax
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import mixer_jax
from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models.parameters import flatten
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training.step import make_state


def test_minus_one_is_the_rest():
  assert dict(meshes.make_mesh().shape) == {'data': 8, 'fsdp': 1, 'model': 1}
  assert dict(meshes.make_mesh(2, -1, 2).shape) == {'data': 2, 'fsdp': 2, 'model': 2}
  one = meshes.make_mesh(devices=jax.devices()[:1])
  assert dict(one.shape) == {'data': 1, 'fsdp': 1, 'model': 1}


def test_a_mesh_of_several_slices_is_refused():
  devices = [types.SimpleNamespace(platform='tpu', slice_index=index) for index in (0, 0, 1, 1)]
  with pytest.raises(UserError, match='the devices here are of 2 slices'):
    meshes.make_mesh(devices=devices)


@pytest.mark.parametrize('sizes', [(3, 1, 1), (-1, -1, 1), (0, 1, 1), (-1, 16, 1), (-2, 2, 2)])
def test_meshes_that_do_not_fit_are_refused(sizes):
  with pytest.raises(UserError, match=f'mesh.data={sizes[0]}, mesh.fsdp={sizes[1]}'):
    meshes.make_mesh(*sizes)


@pytest.mark.parametrize('optimizer', [optax.adamw(1e-3), optax.sgd(0.1, momentum=0.9)])
def test_every_leaf_of_a_state_has_exactly_one_rule(optimizer):
  mesh = meshes.make_mesh(2, 2, 2)
  for config in models.VARIANTS.values():
    state = jax.eval_shape(lambda c=config: make_state(models.shapes(c), optimizer))
    meshes.shardings(mesh, state)  # raises otherwise
  with pytest.raises(ValueError, match='no model has a parameter strange/thing'):
    meshes.shardings(mesh, {'strange': {'thing': np.zeros(3)}})


def test_rules_split_what_they_say_and_moments_follow():
  mesh = meshes.make_mesh(2, 2, 2)
  config = dataclasses.replace(mixer_jax.VARIANTS['S/32'], num_blocks=1)
  state = jax.eval_shape(
    lambda: make_state(models.init(config, jax.random.key(0)), optax.adam(1.0))
  )
  specs = {name: sharding.spec for name, sharding in flatten(meshes.shardings(mesh, state)).items()}
  block = 'params/MixerBlock_0/channel_mixing'
  assert specs[f'{block}/Dense_0/kernel'] == P('fsdp', 'model')
  assert specs[f'{block}/Dense_0/bias'] == P('model')
  assert specs[f'{block}/Dense_1/kernel'] == P('model', 'fsdp')
  # 49 tokens are odd: that axis stays whole, the other is split.
  assert specs['params/MixerBlock_0/token_mixing/Dense_0/kernel'] == P(None, 'model')
  assert specs['opt_state/0/mu/MixerBlock_0/channel_mixing/Dense_0/kernel'] == P('fsdp', 'model')
  assert specs['step'] == specs['opt_state/0/count'] == P()


@pytest.mark.parametrize(
  ('batch', 'accumulate', 'message'),
  [(12, 1, '8 devices: take 16'), (24, 2, '8 devices × 2 micro-batches: take'), (0, 1, 'take 8')],
)
def test_a_batch_that_cannot_be_shared_is_refused(batch, accumulate, message):
  with pytest.raises(UserError, match=message):
    meshes.check_batch(meshes.make_mesh(), batch, accumulate)
  meshes.check_batch(meshes.make_mesh(), 32, 2)


def test_a_small_split_is_one_batch_that_all_devices_can_share():
  mesh = meshes.make_mesh()
  sizes = {59: 64, 512: 512, 513: 512, 4000: 512, 1: 8, 0: 8}
  assert {size: meshes.batch_for(mesh, size, 512) for size in sizes} == sizes
  assert meshes.batch_for(meshes.make_mesh(2, 1, 4), 59, 512) == 60


@pytest.mark.parametrize(
  ('data', 'fsdp', 'model', 'devices', 'parts'),
  [
    (4, 1, 1, 1, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    (2, 2, 2, 2, [(0, 4), (1, 4), (2, 4), (3, 4)]),
    (1, 1, 4, 1, [(0, 1)] * 4),
    (1, 2, 4, 2, [(0, 2), (0, 2), (1, 2), (1, 2)]),
    (4, 1, 2, 4, [(0, 2), (1, 2)]),
  ],
)
def test_processes_that_hold_parts_of_one_model_take_the_same_images(
  monkeypatch, data, fsdp, model, devices, parts
):
  mesh = _mesh_of(data * fsdp, model, devices)
  for process, part in enumerate(parts):
    monkeypatch.setattr(jax, 'process_index', lambda process=process: process)
    assert meshes.own_part(mesh) == part


def test_processes_that_would_share_only_a_part_of_their_images_are_refused(monkeypatch):
  monkeypatch.setattr(jax, 'make_mesh', lambda sizes, *_, **__: _mesh_of(sizes[0], sizes[2], 3))
  with pytest.raises(UserError, match=r'mesh\.model=2: some processes would share a part'):
    meshes.make_mesh(3, 1, 2, devices=[types.SimpleNamespace(platform='cpu')] * 6)


def _mesh_of(rows: int, model: int, devices: int) -> Any:
  """Return a mesh whose processes have so many devices each."""
  owners = [types.SimpleNamespace(process_index=i // devices) for i in range(rows * model)]
  return types.SimpleNamespace(
    shape={'model': model}, devices=np.array(owners).reshape(rows, 1, model)
  )


def test_put_keeps_the_order_of_rows_and_values():
  mesh = meshes.make_mesh(2, 2, 2)
  rows = np.arange(16, dtype=np.int32)
  batch = meshes.put(mesh, {'label': rows})
  np.testing.assert_array_equal(batch['label'], rows)
  assert {shard.data.shape for shard in batch['label'].addressable_shards} == {(4,)}
  params = {'head': {'kernel': np.arange(12.0, dtype=np.float32).reshape(4, 3)}}
  placed = meshes.put_replicated(mesh, params)['head']['kernel']
  np.testing.assert_array_equal(placed, params['head']['kernel'])
  assert placed.sharding.spec == P('fsdp')
