"""A checkpoint opened for evaluation from Python: data, recipe, arithmetic, bad input."""

import tarfile

import pytest

from mixer_jax.__main__ import main
from mixer_jax.errors import UserError
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.loaded_model import load_for_evaluation
from mixer_jax.runs.run_config import RunConfig
from tests.helpers import reference

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
  with pytest.raises(UserError, match='does not say which data set to evaluate on: name one'):
    load_for_evaluation(TINY)
  with pytest.raises(UserError, match=r'no field .*dtyp'):
    load_for_evaluation(TINY, config_of(digits_dir), overrides={'model.dtyp': 'x'})


def test_arithmetic_that_a_family_does_not_have_is_refused_in_one_line(
  tmp_path, digits_dir, capsys
):
  """The config is that of a Mixer, and no ResNet has its `model.gelu`."""
  archive = reference.DATA / 'run_0.1.0_resnet.tar.gz'
  with tarfile.open(archive) as files:
    files.extractall(tmp_path, filter='data')
  argv = [
    *('evaluate', f'--checkpoint={tmp_path}/run', '--config=configs/evaluate.py:digits'),
    *(f'--config.data.data_dir={digits_dir}', '--config.model.gelu=erf'),
  ]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert 'config.model.gelu is no field of a ResNet-' in error
  assert error.endswith('only dtype, input_range can be set\n')
  with pytest.raises(UserError, match=r"config.model.width is the checkpoint's"):
    load_for_evaluation(tmp_path / 'run', overrides={'model.width': 2})
