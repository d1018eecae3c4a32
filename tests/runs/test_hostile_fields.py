"""Each field of a config with values that it cannot have: one line, before anything is built."""

import copy
import math
import time

import pytest

from mixer_jax.errors import UserError
from mixer_jax.models import config_from
from mixer_jax.runs import evaluation_setup
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import study_config
from tests.helpers.configs import run_config


def _nested(make) -> object:
  value = make(1)
  for _ in range(100_000):
    value = make(value)
  return value


DEEP = (_nested(lambda x: [x]), _nested(lambda x: {'a': x}))
NEVER = (None, 10**400, -(10**400), *DEEP, object(), 'a\0b', [object()], b'bytes')
"""Values that no field has."""
NUMBERS = (-math.inf, math.inf, math.nan, 1e308, -1e308, -0.5, '', 'x', [1, 'x'])
"""Values that no field of whole numbers has."""
BASE = load_config('configs/digits.py')
FLAT = flatten(BASE)
GROUPS = [name for name, value in BASE.items() if isinstance(value, dict) and value]


def refused(name: str, value: object) -> str:
  """Return the message for a field that is set to this value."""
  fields = copy.deepcopy(BASE)
  *groups, last = name.split('.')
  node = fields
  for group in groups:
    node = node[group]
  node[last] = value
  with pytest.raises(UserError) as error:
    config_from(RunConfig.from_fields(fields).model)
  return str(error.value)


@pytest.mark.parametrize('name', [*FLAT, *GROUPS])
def test_no_field_takes_a_hostile_value(name):
  began = time.monotonic()
  for value in NEVER:
    message = refused(name, value)
    assert name.rpartition('.')[2] in message or name in GROUPS
    assert '\n' not in message
    assert len(message) < 500
  if type(FLAT.get(name)) is int and name not in ('mesh.data', 'mesh.fsdp', 'mesh.model'):
    for value in NUMBERS:
      assert '\n' not in refused(name, value)
  assert time.monotonic() - began < 10


@pytest.mark.parametrize(
  ('name', 'value'),
  [
    *((name, 10**12) for name in (
      'seed', 'total_steps', 'batch_size', 'eval_batch_size', 'accumulate', 'log_every',
      'eval_every', 'checkpoint_every', 'keep_checkpoints', 'optimizer.warmup_steps',
      'model.num_blocks', 'model.hidden_dim', 'model.tokens_mlp_dim', 'model.channels_mlp_dim',
      'model.num_classes', 'data.threads', 'data.prefetch', 'fewshot.seeds', 'fewshot.shots',
      'processes.start_seconds',
    )),
    *((name, 1e308) for name in (
      'total_epochs', 'mixup', 'model.head_bias', 'optimizer.learning_rate', 'optimizer.eps',
      'optimizer.weight_decay', 'optimizer.clip_norm', 'fewshot.l2',
    )),
    ('model.num_blocks', 5000),
    ('model.family', ['mixer']),
    ('optimizer', 'adam'),
  ],
)  # fmt: skip
def test_sizes_have_bounds(name, value):
  assert '\n' not in refused(name, value)


def test_a_resnet_has_bounds_too():
  for stages in (','.join(['9' * 5000] * 4), '9999,1,1,1'):
    with pytest.raises(UserError, match=r'blocks|stages'):
      config_from({'family': 'resnet', 'stages': stages})


def test_a_batch_that_no_host_can_hold_is_refused(digits_dir, monkeypatch):
  monkeypatch.setattr(evaluation_setup, 'free_memory', lambda: 2**34)
  size = 8 * (2**28 - 1)
  config = run_config(**{'data.data_dir': str(digits_dir), 'batch_size': size})
  with pytest.raises(UserError, match=f'config.batch_size={size:,}: a batch takes 1,536 GiB'):
    build_experiment(config)
  config = run_config(**{'data.data_dir': str(digits_dir), 'eval_batch_size': size})
  assert build_experiment(config).evaluated.images_per_batch == 360  # all of the split


def test_studies_have_not_any_number_of_seeds():
  for value in (10**12, 0, True, 1.0, None):
    with pytest.raises(UserError, match=r'config\.seeds must be'):
      study_config.seeds(value)
