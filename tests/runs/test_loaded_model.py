"""A checkpoint opened for evaluation from Python: data, recipe, arithmetic, bad input."""

import dataclasses
import tarfile

import jax
import numpy as np
import pytest
from PIL import Image

from mixer_jax import checkpoints, models
from mixer_jax.__main__ import main
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runs.checkpoint_labels import trained_loss
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.loaded_model import load_for_evaluation
from mixer_jax.runs.predictions import predict
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


def test_the_loss_is_that_of_the_run_whatever_the_config_says(trained, digits_dir):
  assert load_for_evaluation(trained).loss == 'softmax'
  read = checkpoints.read(str(trained))
  fields = {**read.metadata['config'], 'loss': 'sigmoid'}
  sigmoid = dataclasses.replace(read, metadata={**read.metadata, 'config': fields})
  assert trained_loss(sigmoid) == 'sigmoid'
  assert trained_loss(dataclasses.replace(read, metadata={})) == 'softmax'
  config = config_of(digits_dir, '--config.loss=sigmoid')
  assert load_for_evaluation(trained, config).loss == 'softmax'
  assert load_for_evaluation(trained, overrides={'loss': 'sigmoid'}).loss == 'sigmoid'
  assert load_for_evaluation(TINY, config).loss == 'sigmoid'  # a weights file does not say


def test_a_run_that_is_trained_by_sigmoid_is_evaluated_by_it(digits_dir):
  config = load_config('configs/digits.py', [f'--config.data.data_dir={digits_dir}'])
  experiment = build_experiment(RunConfig.from_fields({**config, 'loss': 'sigmoid'}))
  shapes = models.shapes(experiment.model)
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)
  placed = meshes.put_replicated(experiment.evaluated.mesh, params)
  numbers = experiment.evaluators[0](0, placed)
  assert numbers['loss'] == pytest.approx(10 * np.log(2), rel=1e-5)  # and ln 10 by softmax


def test_predictions_of_a_model_trained_by_sigmoid_are_sigmoids(trained, tmp_path):
  Image.new('L', (8, 8), 200).save(tmp_path / 'a.png')
  ask = lambda model, **more: next(predict(model, str(tmp_path / 'a.png'), top=10, **more)).top
  softmax = [row.probability for row in ask(str(trained)) or ()]
  assert sum(softmax) == pytest.approx(1, rel=1e-5)
  chosen = load_for_evaluation(trained, overrides={'loss': 'sigmoid'})
  sigmoid = [row.probability for row in ask(chosen) or ()]
  assert sigmoid == [row.probability for row in ask(str(trained), loss='sigmoid') or ()]
  logit = lambda p: np.log(p / (1 - p))
  wanted = np.log(softmax) - np.log(softmax[0]) + logit(sigmoid[0])
  np.testing.assert_allclose(logit(np.array(sigmoid)), wanted, atol=1e-4)


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
