"""RunConfig: from plain fields and back, what it refuses, and which fields make another run."""

import dataclasses
import json

import pytest

from mixer_jax.errors import UserError
from mixer_jax.runs import workdir
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig, affects_result
from tests.helpers.configs import run_config

DIGITS = 'configs/digits.py'


def test_fields_there_and_back():
  config = run_config(DIGITS, init_from='x', init_blocks=(0, 2), **{'fewshot.shots': '1,5'})
  assert (config.init_blocks, config.fewshot.shots) == ((0, 2), (1, 5))
  assert config.model['num_blocks'] == 4
  steps = config.with_fields({'optimizer.schedule': 'steps', 'optimizer.decay_at': '0.3,0.6'})
  assert steps.optimizer.decay_at == (0.3, 0.6)
  assert RunConfig.from_fields(json.loads(json.dumps(steps.to_fields()))) == steps
  fields = config.to_fields()
  assert (fields['init_blocks'], fields['fewshot']['shots']) == ('0,2', '1,5')
  assert (fields['mixup'], fields['mixup_per']) == (0.0, 'batch')
  assert RunConfig.from_fields(json.loads(json.dumps(fields))) == config


def test_stored_fields_are_those_of_the_config_file_as_before():
  loaded, stored = load_config(DIGITS), run_config(DIGITS).to_fields()
  assert loaded.pop('evals') == {}  # is stored by runs that have some
  assert (loaded.pop('init_blocks'), stored.pop('init_blocks')) == ((), '')
  assert (loaded['optimizer'].pop('decay_at'), stored['optimizer'].pop('decay_at')) == ((), '')
  assert (loaded['fewshot'].pop('shots'), stored['fewshot'].pop('shots')) == ((5,), '5')
  assert stored == loaded


def test_a_config_cannot_be_changed_but_copied_with_changes():
  config = run_config(DIGITS)
  other = config.with_fields({'data.train_split': 'train[:50%]', 'seed': 3, 'model.dropout': 0.5})
  assert (other.data.train_split, other.seed, other.model['dropout']) == ('train[:50%]', 3, 0.5)
  assert (config.data.train_split, config.seed, config.model['dropout']) == ('train', 0, 0.0)
  assert dataclasses.replace(other.data, train_split='train') == config.data
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.seed = 1  # pyright: ignore[reportAttributeAccessIssue]
  with pytest.raises(TypeError):
    config.model['dropout'] = 0.5  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize(
  ('changes', 'message'),
  [
    ({'total_steps': 0}, 'config.total_steps must be a whole number, at least 1 and below 2^31'),
    ({'total_steps': True}, 'config.total_steps must be a whole number'),
    ({'seed': 2**31}, 'config.seed must be a whole number'),
    ({'total_epochs': float('inf')}, 'config.total_epochs must be 0 or more, is inf'),
    ({'keep_best': 1}, 'config.keep_best must be true or false, is 1'),
    ({'init_from': 3}, 'config.init_from must be a string'),
    ({'init_head': 'new'}, "config.init_head must be 'zero' or 'keep', not 'new'"),
    ({'init_head': 'keep'}, 'need a checkpoint: set init_from'),
    ({'loss': 'hinge'}, 'loss must be one of softmax, sigmoid'),
    ({'mixup': -1.0}, 'mixup must be in [0, 100], is -1.0'),
    ({'mesh.data': 1.5}, 'config.mesh.data must be a whole number, is 1.5'),
    ({'mesh.pipe': 1}, 'config.mesh has unknown fields: pipe'),
    ({'fewshot.shots': 'x'}, 'config.fewshot.shots=x: whole numbers, as in 1,5,10'),
    ({'fewshot.shots': (1, 1)}, 'name a number twice'),
    ({'optimizer.decay_at': '0.3;0.6'}, 'optimizer.decay_at=0.3;0.6: numbers, as in 1,5,10'),
    ({'optimizer.name': 'lion'}, "optimizer.name must be 'adam' or 'sgd'"),
    ({'data.threads': -1}, 'data.threads must be in'),
    ({'data.threads': 1025}, 'data.threads must be in 0..1024'),
    ({'data.max_megapixels': 0}, 'data.max_megapixels must be in 1..178'),
    ({'processes.distributed': 'maybe'}, 'processes.distributed must be'),
    ({'stepz': 1}, 'the config has unknown fields: stepz'),
    ({'data.x.y': 1}, "the config has no field 'data.x.y'"),
    ({'model': 'B/16'}, "config.model is a group of fields, not 'B/16'"),
    ({'data': 'digits'}, "config.data is a group of fields, not 'digits'"),
    ({'evals': {'a': 1}}, 'config.evals.a is a group of fields, not 1'),
  ],
)
def test_wrong_values_are_named(changes, message):
  with pytest.raises(UserError) as error:
    run_config(DIGITS).with_fields(changes)
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_missing_fields_are_named():
  fields = load_config(DIGITS)
  for name in ('seed', 'mixup_per', 'data'):
    with pytest.raises(UserError, match=f"the config has no field '{name}': begin with"):
      RunConfig.from_fields({k: v for k, v in fields.items() if k != name})
  del fields['optimizer']['b1']
  with pytest.raises(UserError, match=r'config\.optimizer lacks b1: set them'):
    RunConfig.from_fields(fields)


FREE = (
  *('log_every', 'eval_batch_size', 'checkpoint_every', 'keep_checkpoints', 'tensorboard'),
  *('data.data_dir', 'data.undecodable', 'data.changed', 'data.max_megapixels'),
  *('data.workers', 'data.threads', 'data.prefetch'),
  *('mesh.fsdp', 'processes.distributed'),
)
DECIDES_BEST = ('eval_every', 'fewshot.every', 'fewshot.shots', 'evals.probe.kind')


def test_every_field_but_these_makes_another_run():
  def flat(fields, prefix=''):
    for name, value in fields.items():
      if isinstance(value, dict):
        yield from flat(value, f'{prefix}{name}.')
      else:
        yield prefix + name

  for keeps_best in (False, True):
    for name in (*flat(run_config(DIGITS).to_fields()), 'evals.probe.kind', 'model.new'):
      group = name.split('.')[0]
      decides = name == 'eval_every' or group in ('fewshot', 'evals')
      is_free = name in FREE or group in ('mesh', 'processes') or (decides and not keeps_best)
      assert affects_result(name, keeps_best=keeps_best) != is_free, name
  assert not any(affects_result(name, keeps_best=False) for name in (*FREE, *DECIDES_BEST))


def test_a_stored_config_is_compared_by_value_not_by_spelling(tmp_path):
  config = run_config(DIGITS, init_from='x', init_blocks=(0, 1), keep_best=True)
  fields = config.to_fields() | {'init_blocks': '0, 1', 'total_epochs': 0}
  fields['fewshot']['shots'] = [5]
  stored = {'model': fields['model']}
  workdir.check_same_run(tmp_path, config, stored | {'config': fields})
  for other in ({'init_blocks': '1,0'}, {'seed': 1}):
    with pytest.raises(UserError, match=f'its config.{next(iter(other))} is'):
      workdir.check_same_run(tmp_path, config, stored | {'config': fields | other})


def test_steps_of_epochs():
  assert run_config(DIGITS).steps_for(1000) == 1200
  assert run_config(DIGITS, total_epochs=2.0).steps_for(1000) == round(2000 / 128)
  with pytest.raises(UserError, match='they must be below'):
    run_config(DIGITS, total_epochs=1e12).steps_for(1000)
