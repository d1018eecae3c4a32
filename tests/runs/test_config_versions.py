"""Configs of earlier formats are completed with the values that mean what was done then."""

import json

import pytest

from mixer_jax import UserError
from mixer_jax.checkpoints import state_format
from mixer_jax.runs import config_versions
from mixer_jax.runs.config_versions import stored_config
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.run_config import RunConfig
from tests.helpers.configs import run_config

# The config of the first commit that could train, for digits.
FIRST = {
  'seed': 0, 'total_steps': 8, 'batch_size': 64, 'eval_batch_size': 256, 'accumulate': 1,
  'loss': 'softmax', 'init_from': '', 'log_every': 2, 'eval_every': 4, 'checkpoint_every': 4,
  'keep_checkpoints': 3, 'tensorboard': False,
  'model': {'patch_size': 4, 'num_blocks': 4, 'hidden_dim': 64, 'tokens_mlp_dim': 32},
  'data': {
    'name': 'digits', 'data_dir': '', 'train_split': 'train', 'eval_split': 'test',
    'min_crop_area': 0.7, 'flip': False, 'eval_resize': 'resize', 'eval_crop_fraction': 1.0,
    'threads': 16, 'prefetch': 512,
  },
  'optimizer': {
    'name': 'adam', 'learning_rate': 3e-3, 'warmup_steps': 50, 'schedule': 'cosine',
    'weight_decay': 0.1, 'clip_norm': 1.0, 'b1': 0.9, 'b2': 0.999, 'eps': 1e-8, 'momentum': 0.9,
  },
  'mesh': {'data': -1, 'fsdp': 1, 'model': 1},
}  # fmt: skip


def test_the_first_format_has_all_fields_now():
  config = RunConfig.from_fields(stored_config('run', {'config': FIRST}))
  assert config.data.eval_recipe == 'resize-crop'
  assert (config.data.max_crop_area, config.data.permutation) == (1.0, 'none')
  assert (config.total_epochs, config.mixup.alpha, config.fewshot.every) == (0, 0, 0)
  assert flatten(config.to_fields()).items() >= {'data.min_crop_area': 0.7, 'seed': 0}.items()


def test_what_is_stored_counts_and_is_not_changed():
  stored = {'config': {**FIRST, 'mixup': 0.2}}
  before = json.dumps(stored)
  assert stored_config('run', stored)['mixup'] == 0.2
  assert json.dumps(stored) == before


def test_a_field_that_its_own_format_had_is_not_made_up():
  fields = run_config().to_fields()
  del fields['mixup']
  stored = {**state_format.stamp(), 'config': fields}
  assert 'mixup' not in stored_config('run', stored)


def test_adam_of_earlier_formats_kept_its_moments_in_float32():
  fields = run_config(**{'optimizer.momentum_dtype': 'bfloat16'}).to_fields()
  assert stored_config('run', {'format': 1, 'config': fields})['optimizer']['momentum_dtype'] == (
    'float32'
  )
  stored = {**state_format.stamp(), 'config': fields}
  assert stored_config('run', stored)['optimizer']['momentum_dtype'] == 'bfloat16'
  fields['optimizer']['name'] = 'sgd'
  assert stored_config('run', {'format': 1, 'config': fields})['optimizer']['momentum_dtype'] == (
    'bfloat16'
  )


def test_runs_that_began_before_sharpness_aware_minimisation_go_on_without_it():
  fields = run_config().to_fields()
  for name in ('sam_rho', 'sam_rho_end', 'sam_alpha'):
    del fields['optimizer'][name]
  stored = {'format': 1, 'config': fields}
  assert RunConfig.from_fields(stored_config('run', stored)).optimizer == run_config().optimizer


def test_old_runs_get_a_value_for_every_field_of_a_new_one():
  old, new = stored_config('run', {'config': FIRST}), run_config().to_fields()
  known = {name for name in flatten(new) if not name.startswith('model.')}
  assert known <= flatten(old).keys()


def test_fields_that_are_added_are_fields():
  known = flatten(run_config().to_fields()).keys()
  for added in config_versions._ADDED.values():
    assert added.keys() <= known


@pytest.mark.parametrize('number', [state_format.FORMAT + 1, 10**30])
def test_a_newer_format_is_refused_by_its_version(number):
  stored = {'format': number, 'version': '7.8.9', 'config': FIRST}
  with pytest.raises(UserError, match=rf'^a/run has format {number}, written by mixer_jax 7\.8\.9'):
    stored_config('a/run', stored)


@pytest.mark.parametrize('number', [-1, 'new', None, 1.5, True])
def test_a_format_that_is_no_number_is_refused(number):
  with pytest.raises(UserError, match='which is no number'):
    stored_config('run', {'format': number, 'config': FIRST})


def test_the_command_that_began_a_run_resumes_it_after_defaults_changed():
  stored = {'config': stored_config('run', {'config': FIRST}), 'format': 0}
  new = run_config(total_steps=8)
  begun = config_versions.as_begun(new, stored)
  assert (new.data.crop, new.data.max_crop_aspect) == ('tensorflow', 1.33)
  assert (begun.data.crop, begun.data.max_crop_aspect) == ('uniform-area', 4 / 3)
  assert (begun.fewshot.train_split, begun.fewshot.recipe) == ('train', '')
  assert begun.optimizer == new.optimizer
  # Of a run of this format nothing is changed; nor is what the command itself says.
  assert config_versions.as_begun(new, {**stored, 'format': state_format.FORMAT}) is new
  other = new.with_fields({'data.max_crop_aspect': 2.0})
  assert config_versions.as_begun(other, stored).data.max_crop_aspect == 2.0


def test_steps_that_were_counted_on_all_images_are_kept():
  new = run_config('configs/pretrain.py:B/16,imagenet2012')
  fields = new.to_fields() | {'total_steps': 93_835}
  stored = {'config': fields, 'format': 0}
  assert config_versions.as_begun(new, stored).total_steps == 93_835
  stored = {'config': {**fields, 'total_steps': 90_000}, 'format': 0}
  assert config_versions.as_begun(new, stored).total_steps == 92_897  # refused as another run
