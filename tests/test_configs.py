"""The experiments in configs/ against the paper's tables."""

import dataclasses
from typing import Any

import jax
import numpy as np
import pytest

import mixer_jax
from configs import evaluate, finetune, pretrain, transfer
from mixer_jax import VARIANTS, UserError
from mixer_jax.data import augment, tasks
from mixer_jax.data.catalog import class_ids
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.resize import bilinear
from mixer_jax.models import MixerConfig, num_params
from mixer_jax.runs import initial_model
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.training.optimizer import OptimizerConfig
from tests.helpers.configs import run_config

# Table 4: epochs, learning rate, weight decay, RandAugment's magnitude, mixup, stochastic depth.
TABLE_4 = {
  'B/16,imagenet2012': (300, 0.001, 0.1, 15, 0.5, 0.1),
  'L/16,imagenet2012': (300, 0.001, 0.1, 15, 0.5, 0.1),
  'B/16,imagenet21k': (300, 0.001, 0.1, 10, 0.2, 0.1),
  'L/16,imagenet21k': (300, 0.001, 0.1, 20, 0.5, 0.1),
  'S/32,jft300m': (5, 0.003, 0.03, None, 0, 0),
  'S/16,jft300m': (5, 0.003, 0.03, None, 0, 0),
  'B/32,jft300m': (7, 0.003, 0.03, None, 0, 0),
  'L/32,jft300m': (7, 0.001, 0.03, None, 0, 0),
  'L/16,jft300m': (14, 0.001, 0.03, None, 0, 0),
  'H/14,jft300m': (14, 0.001, 0.03, None, 0, 0),
}
IMAGES = {'imagenet2012': 1.28e6, 'imagenet21k': 14.2e6, 'jft300m': 300e6}


@pytest.mark.parametrize('arg', TABLE_4)
def test_pretraining_is_table_4(arg):
  config = pretrain.get_config(arg)
  epochs, learning_rate, weight_decay, magnitude, mixup, depth = TABLE_4[arg]
  name, data = arg.split(',')
  assert config.batch_size == 4096
  # Epochs of the images that are trained on.
  assert config.total_steps * 4096 / (0.99 * IMAGES[data]) == pytest.approx(epochs, rel=0.002)
  optimizer = OptimizerConfig(**config.optimizer)
  assert (optimizer.name, optimizer.b1, optimizer.b2) == ('adam', 0.9, 0.999)
  assert (optimizer.learning_rate, optimizer.weight_decay) == (learning_rate, weight_decay)
  assert (optimizer.warmup_steps, optimizer.schedule, optimizer.clip_norm) == (10_000, 'linear', 1)
  assert config.data.randaugment_layers == (0 if magnitude is None else 2)
  if magnitude is not None:
    assert config.data.randaugment_magnitude == magnitude
  assert (config.mixup, config.mixup_per) == (mixup, 'batch')
  assert (config.data.train_split, config.data.eval_split) == ('train[:99%]', 'train[99%:]')
  assert config.data.test_split == ('validation' if data == 'imagenet2012' else '')
  model = MixerConfig(**config.model)
  assert (model.dropout, model.stochastic_depth) == (0, depth)
  assert model.image_size == 224
  body = num_params(model) - (model.hidden_dim + 1) * model.num_classes
  variant = VARIANTS[name]
  assert body == num_params(variant) - (variant.hidden_dim + 1) * variant.num_classes


def test_steps_are_counted_as_the_authors_code_counts_them():
  named = pretrain.get_config('B/16,imagenet2012')
  assert named.total_steps == 92_897
  # The same row with its data named counts when the data are there.
  counted = run_config(pretrain.get_config('B/16,imagenet2012,imagenet2012'))
  assert counted.steps_for(1_268_355) == named.total_steps  # train[:99%]


@pytest.mark.parametrize(('data', 'classes'), [('imagenet21k', 21_843), ('cifar100', 100)])
def test_a_stand_in_is_trained_on_by_the_recipe_of_the_row(data, classes):
  row, config = (pretrain.get_config(f'B/32,jft300m{more}') for more in ('', f',{data}'))
  assert (config.total_epochs, config.data.name, config.model.num_classes) == (7, data, classes)
  with row.unlocked():
    row.data.name, row.model.num_classes = data, classes
    row.total_epochs, row.total_steps = config.total_epochs, config.total_steps
  assert config.to_dict() == row.to_dict()


def test_epochs_of_a_stand_in_are_counted_in_its_images(tmp_path):
  for label in range(3):
    for i in range(40):
      path = tmp_path / str(label) / f'{i}.png'
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(b'')
  config = pretrain.get_config(f'B/32,jft300m,folder:{tmp_path}')
  config.batch_size = config.eval_batch_size = 16
  checked = build_experiment(run_config(config))
  assert checked.model.num_classes == 3
  assert (len(checked.source), len(checked.evaluated.source)) == (119, 1)
  assert checked.total_steps == round(7 * 119 / 16)
  config.optimizer.warmup_steps = 10
  checked = build_experiment(run_config(config))
  rates = [float(checked.schedule(step)) for step in (10, 31, 52)]
  np.testing.assert_allclose(rates, [3e-3, 3e-3 / 2, 0], rtol=1e-6, atol=1e-9)
  config.data.test_split = 'validation'
  with pytest.raises(UserError, match="no split 'validation'"):
    build_experiment(run_config(config))


# Section 3 and Appendix C; steps of the ViT paper's Table 4: steps, warm-up, classes.
FINE_TUNING = {
  'imagenet2012': (20_000, 500, 1000),
  'cifar10': (10_000, 500, 10),
  'cifar100': (10_000, 500, 100),
  'oxford_iiit_pet': (500, 100, 37),
  'oxford_flowers102': (500, 100, 102),
}


@pytest.mark.parametrize('data', FINE_TUNING)
def test_fine_tuning_is_the_papers(data):
  config = finetune.get_config(f'B/16,{data}')
  steps, warmup, classes = FINE_TUNING[data]
  optimizer = OptimizerConfig(**config.optimizer)
  assert (optimizer.name, optimizer.momentum, optimizer.schedule) == ('sgd', 0.9, 'cosine')
  assert (optimizer.weight_decay, optimizer.clip_norm) == (0, 1)
  assert (config.total_steps, optimizer.warmup_steps, config.batch_size) == (steps, warmup, 512)
  assert optimizer.learning_rate in (0.003, 0.01, 0.03, 0.06)
  assert (config.mixup, config.data.randaugment_layers) == (0, 0)
  assert (config.data.eval_recipe, config.data.eval_crop_fraction) == ('resmall-crop', 0.875)
  assert config.model.num_classes == classes == len(class_ids(data))
  assert config.init_from == 'imagenet21k/Mixer-B_16'


@pytest.mark.parametrize('task', tasks.suite('vtab'), ids=lambda task: task.name)
def test_fine_tuning_to_a_task_of_vtab_is_the_papers(task):
  config = finetune.get_config(f'B/16,{task.name}')
  assert OptimizerConfig(**config.optimizer).warmup_steps == 100
  assert (config.total_steps, config.batch_size) == (500, 512)
  data = DataConfig(**config.data)
  assert (data.name, data.train_split, data.eval_split) == (task.name, 'train800val200', 'test')
  assert (config.model.image_size, config.model.num_classes) == (task.size, task.classes)
  assert data.flip == task.flip
  assert data.eval_recipe == 'resize-crop'  # Table 2's, which alone has VTAB-1k
  # Where a place or a count matters, training and evaluation see all of the image.
  image = np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8)
  seen = augment.inception_crop(
    image,
    56,
    np.random.default_rng(1),
    areas=(data.min_crop_area, data.max_crop_area),
    aspects=(data.min_crop_aspect, data.max_crop_aspect),
    crop=data.crop,
  )
  is_whole = (seen == bilinear(image, 56, 56, 56, np.uint8)).all()
  assert is_whole == (not task.crop) == (data.eval_crop_fraction == 1)


def test_fine_tuning_to_a_task_of_avg5_differs_in_its_parts_alone():
  for task in tasks.suite('avg5'):
    own = finetune.get_config(f'B/16,{task.name}')
    other = finetune.get_config(f'B/16,{task.data_set}')
    differing = {n for n, v in own.data.items() if v != other.data[n]}
    assert differing <= {'name', 'train_split', 'eval_split'}
    assert (own.data.train_split, own.data.eval_split) == ('train', 'test')
    for field in ('total_steps', 'batch_size', 'optimizer', 'model', 'init_from'):
      assert own[field] == other[field]


def test_transfer_has_an_experiment_a_task():
  study = transfer.get_config('L/16')
  assert study.learning_rates.vtab == (0.003, 0.01, 0.03)
  assert study.learning_rates.avg5 == (0.003, 0.01, 0.03, 0.06)
  assert study.seeds == 3
  assert set(study.tasks) == set(tasks.names())
  for name, config in study.tasks.items():
    assert config.to_dict() == finetune.get_config(f'L/16,{name}').to_dict()
  large = transfer.get_config('L/16,448').tasks  # Table 2
  assert large['avg5/pets'].model.image_size == 448
  assert large['avg5/pets'].data.eval_recipe == 'resize-crop'
  assert large['vtab/svhn'].model.image_size == 224
  small = transfer.get_config('digits').tasks
  assert (small['avg5/pets'].model.image_size, small['vtab/dtd'].model.image_size) == (16, 32)


@pytest.mark.parametrize('arg', ['', 'X/16', 'L/16,384', 'digits,448'])
def test_other_transfers_are_refused_with_what_there_is(arg):
  with pytest.raises(UserError, match=r'VARIANT is one of S/32, .* SIZE 224 or 448'):
    transfer.get_config(arg)


def test_a_task_is_evaluated_on_its_test_part():
  data = evaluate.get_config('vtab/dtd').data
  assert (data.train_split, data.eval_split) == ('train800val200', 'test')


def test_fine_tuning_starts_from_a_checkpoint_of_its_variant(tmp_path):
  config = finetune.get_config('S/32,cifar10')
  assert config.init_from == ''  # none is published
  with pytest.raises(UserError, match='take them from a checkpoint with'):
    initial_model.model_of(run_config(config))
  small = dataclasses.replace(VARIANTS['S/32'], image_size=64, num_classes=3)
  for patch_size in (32, 16):
    model = dataclasses.replace(small, patch_size=patch_size, image_size=2 * patch_size)
    config.init_from = str(tmp_path / f'{patch_size}.npz')
    mixer_jax.save(config.init_from, model, mixer_jax.init(model, jax.random.key(0)))
    config.model.image_size = 4 * patch_size
    if patch_size == 32:
      grown: Any = initial_model.model_of(run_config(config))
      assert (grown.num_classes, grown.tokens_mlp_dim, grown.image_size) == (10, 1024, 128)
    else:
      with pytest.raises(UserError, match='patch_size cannot differ'):
        initial_model.model_of(run_config(config))


def test_an_unknown_task_is_refused_with_the_nearest():
  with pytest.raises(UserError, match='did you mean vtab/clevr_count or'):
    finetune.get_config('B/16,vtab/clevr_cont')


@pytest.mark.parametrize('arg', ['', 'B/16', 'X/16,cifar10', 'B/16,mnist', 'X/16,vtab/dtd'])
def test_other_fine_tuning_is_refused_with_what_there_is(arg):
  with pytest.raises(UserError, match='DATASET of imagenet2012, cifar10'):
    finetune.get_config(arg)


@pytest.mark.parametrize(
  'arg',
  ['', 'B/16', 'B/16,', 'X/16,imagenet21k', 'S/16,imagenet2012', 'B/16,cifar10', 'B,imagenet21k'],
)
def test_what_table_4_has_not_is_refused_with_what_it_has(arg):
  with pytest.raises(UserError, match=r'Table 4 has B/…,imagenet2012, .* as in L/16,imagenet21k'):
    pretrain.get_config(arg)
