"""Settings of a benchmark: bounds of every field, and the models by name."""

import dataclasses

import pytest

from mixer_jax import hardware
from mixer_jax.bench import suite
from mixer_jax.bench.settings import PARTS, BenchSettings
from mixer_jax.errors import UserError
from mixer_jax.models import VARIANTS, MixerConfig

TINY = MixerConfig(16, 1, 16, 8, 16, image_size=32, num_classes=10)


def test_every_part_has_a_name_and_every_name_a_part():
  assert tuple(suite.PARTS) == PARTS


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'parts': ()}, 'no parts to measure'),
    ({'parts': ('forward', 'flight')}, "part 'flight' is not one of forward, train"),
    ({'dtype': 'int8'}, 'model.dtype must be one of'),
    ({'batch_size': 0}, 'batch_size must be a whole number in 1..1048576, is 0'),
    ({'batch_size': True}, 'batch_size must be a whole number'),
    ({'peak': 0.0}, 'peak must be more than 0 FLOP/s per device'),
    ({'peak': float('nan')}, 'peak must be more than 0'),
    ({'rounds': 0}, 'rounds must be a whole number in 1..1000, is 0'),
    ({'rounds': None}, 'rounds must be a whole number'),
    ({'steps_per_round': 10**7}, 'steps_per_round must be a whole number in 1..1000000'),
    ({'folder': '/nowhere'}, '/nowhere is not a folder: create it first'),
  ],
)
def test_values_out_of_bounds_are_rejected(fields, message):
  with pytest.raises(UserError, match=message):
    BenchSettings(TINY, **fields)


def test_a_batch_that_the_devices_cannot_share_is_rejected():
  with pytest.raises(
    UserError, match='batch_size 12 cannot be shared evenly by 8 devices: take 16'
  ):
    suite.run(BenchSettings(TINY, batch_size=12))


@pytest.mark.parametrize(
  ('name', 'fields', 'message'),
  [
    ('B/17', {}, "no model 'B/17', did you mean B/16"),
    ('B/16', {'image_size': 33}, 'model.image_size 33 is not a multiple'),
    ('B/16', {'classes': 0}, 'model.num_classes must be a positive'),
  ],
)
def test_an_unknown_model_is_rejected(name, fields, message):
  with pytest.raises(UserError, match=message):
    suite.model_of(name, **fields)


def test_a_model_is_found_by_its_name():
  model = suite.model_of('L/16', classes=10, image_size=448)
  assert model == dataclasses.replace(VARIANTS['L/16'], num_classes=10, image_size=448)


def test_the_threads_of_a_core_are_counted(monkeypatch):
  for text, count in (('0', 1), ('0,48', 2), ('0-1', 2), ('', 1), ('0-3\n', 4)):
    monkeypatch.setattr(hardware, '_read', lambda path, text=text: text)
    assert hardware.threads_per_core() == count
  monkeypatch.setattr(hardware, '_read', lambda path: 'processor\t: 0\nmodel name\t: Some CPU\n')
  assert hardware.cpu_name() == 'Some CPU'
