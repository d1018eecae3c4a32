"""A checkpoint opened for evaluation from Python: data, recipe, arithmetic, bad input."""

import jax
import pytest

import mixer_jax
from mixer_jax.errors import UserError
from mixer_jax.models import ResNetConfig
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.loaded_model import load_for_evaluation
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.workdir import STATES
from tests.helpers import reference, train_runs

TINY = reference.DATA / 'mixer_tiny.npz'


def config_of(digits_dir, *overrides: str) -> RunConfig:
  where = f'--config.data.data_dir={digits_dir}'
  return RunConfig.from_fields(load_config('configs/evaluate.py:digits', [where, *overrides]))


def test_the_data_and_the_recipe_are_those_of_the_run(trained):
  loaded = load_for_evaluation(trained)
  assert loaded.setup.source.name == 'digits/test'
  assert loaded.setup.data.eval_recipe == 'vit-jax'
  assert loaded.model == loaded.checkpoint.config
  batch = next(loaded.batches())
  assert batch['image'].shape == (64, 16, 16, 3)


def test_fields_of_the_run_can_be_overridden(trained):
  overrides = {'data.eval_split': 'test[:50]', 'eval_batch_size': 16, 'model.dtype': 'bfloat16'}
  loaded = load_for_evaluation(trained, overrides=overrides, gelu='erf', recipe='timm')
  assert (len(loaded.setup.source), loaded.setup.batch_size) == (50, 16)
  assert (loaded.model.dtype, loaded.model.gelu) == ('bfloat16', 'erf')  # pyright: ignore
  assert loaded.setup.data.eval_recipe == 'timm'
  assert loaded.config.data.eval_split == 'test[:50]'


def test_a_config_leaves_the_recipe_to_the_checkpoint(trained, digits_dir):
  loaded = load_for_evaluation(trained, config_of(digits_dir))
  assert loaded.setup.data.eval_recipe == 'vit-jax'


def test_a_weights_file_needs_a_config(digits_dir):
  with pytest.raises(UserError, match='does not contain the data set to evaluate on: name one'):
    load_for_evaluation(TINY)
  with pytest.raises(UserError, match='no field .*dtyp'):
    load_for_evaluation(TINY, config_of(digits_dir), overrides={'model.dtyp': 'x'})


@pytest.fixture(scope='module')
def resnet(tmp_path_factory, digits_dir):
  workdir = tmp_path_factory.mktemp('resnet') / 'run'
  where = [f'--workdir={workdir}', f'--config.data.data_dir={digits_dir}']
  model = ['--config.models.resnet.model.stages=1,1']
  return workdir, where, model


def test_arithmetic_that_a_family_does_not_have_is_refused_in_one_line(tmp_path, digits_dir):
  """A config of a Mixer, whose `model.gelu` no ResNet has."""
  from mixer_jax.checkpoints import Checkpoint
  from mixer_jax.runs import loaded_model

  model = ResNetConfig(
    stages='1,1', groups=4, width=0.125, image_size=16, num_classes=10, stem='cifar'
  )
  config = config_of(digits_dir, '--config.model.gelu=erf')
  with pytest.raises(UserError) as error:
    loaded_model._with_arithmetic(model, config, {'model.gelu': 'erf'})
  text = str(error.value)
  assert '\n' not in text
  assert 'config.model.gelu is no field of a ResNet' in text
  assert text.endswith('only dtype, input_range can be set')
  chosen = loaded_model._with_arithmetic(model, config, {'model.dtype': 'float32'})
  assert chosen == model
