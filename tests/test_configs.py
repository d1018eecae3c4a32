"""The experiments in configs/ against the paper's tables."""

import contextlib
import dataclasses
from typing import Any

import cv2
import jax
import numpy as np
import pytest

import mixer_jax
from configs import augreg, data_scaling, evaluate, finetune, permutation, pretrain, transfer
from mixer_jax import VARIANTS, UserError
from mixer_jax.data import augment, recipes, tasks
from mixer_jax.data.catalog import class_ids
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.resize import bilinear
from mixer_jax.models import (
  MixerConfig,
  ResNetConfig,
  ViTConfig,
  find_variant,
  num_params,
  variant_of,
)
from mixer_jax.runs import initial_model
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.training.optimizer import OptimizerConfig, make_schedule
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


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    ('', "no model ''"),
    ('X/16', r"no model 'X/16', did you mean S/16 or"),
    ('L/16,384', r'transfer.py:L/16,384: L/16 has SIZE 224 or 448; .* 384 or 224 of a ViT'),
    ('vit-B/16,448', 'ViT-B/16 has SIZE 384 or 224;'),
    ('bit-R50x1,448', 'BiT-R50x1 has no SIZE;'),
    ('digits,448', 'digits has no SIZE;'),
  ],
)
def test_other_transfers_are_refused_with_what_there_is(arg, message):
  with pytest.raises(UserError, match=message):
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


@pytest.mark.parametrize('arg', ['', 'B/16', 'vit-B/16,', 'B/16,mnist', 'X/16,mnist'])
def test_other_fine_tuning_is_refused_with_what_there_is(arg):
  with pytest.raises(UserError, match='DATASET of imagenet2012, cifar10'):
    finetune.get_config(arg)


@pytest.mark.parametrize(
  'arg',
  ['B/16', 'B/16,', 'S/16,imagenet2012', 'B/16,cifar10', 'vit-S/16,imagenet21k', 'vit-H/14,x'],
)
def test_what_the_tables_have_not_is_refused_with_what_they_have(arg):
  message = r'tables have B/…, L/…, ViT-B/32, .* BiT-… on imagenet2012; .* as in L/16,imagenet21k'
  with pytest.raises(UserError, match=message):
    pretrain.get_config(arg)


@pytest.mark.parametrize('made', [pretrain, finetune, augreg, transfer])
def test_unknown_models_are_refused_with_near_ones(made):
  with pytest.raises(UserError, match=r"no model 'vit-B/61', did you mean ViT-B/16"):
    made.get_config('vit-B/61,cifar10' if made is finetune else 'vit-B/61,imagenet21k')


# The ViT paper's Table 3: epochs, learning rate, weight decay, dropout, schedule.
VIT_TABLE_3 = {
  'vit-B/16,imagenet2012': (300, 3e-3, 0.3, 0.1, 'cosine'),
  'vit-L/32,imagenet2012': (300, 3e-3, 0.3, 0.1, 'cosine'),
  'vit-B/32,imagenet21k': (90, 1e-3, 0.03, 0.1, 'linear'),
  'vit-L/16,imagenet21k': (90, 1e-3, 0.03, 0.1, 'linear'),
  'vit-B/16,jft300m': (7, 8e-4, 0.1, 0.0, 'linear'),
  'vit-L/32,jft300m': (7, 6e-4, 0.1, 0.0, 'linear'),
  'vit-L/16,jft300m': (14, 4e-4, 0.1, 0.0, 'linear'),
  'vit-H/14,jft300m': (14, 3e-4, 0.1, 0.0, 'linear'),
}


@pytest.mark.parametrize('arg', VIT_TABLE_3)
def test_pretraining_of_a_vit_is_its_papers(arg):
  config = run_config(pretrain.get_config(arg))
  epochs, rate, decay, dropout, schedule = VIT_TABLE_3[arg]
  text, data = arg.split(',')
  assert config.total_steps * 4096 / (0.99 * IMAGES[data]) == pytest.approx(epochs, rel=0.002)
  optimizer = config.optimizer
  assert (optimizer.name, optimizer.b1, optimizer.b2) == ('adam', 0.9, 0.999)
  assert (optimizer.learning_rate, optimizer.weight_decay) == (rate, decay)
  assert (optimizer.schedule, optimizer.warmup_steps) == (schedule, 10_000)
  assert optimizer.clip_norm == (1 if data == 'imagenet2012' else 0)
  assert (config.mixup.alpha, config.data.randaugment_layers) == (0, 0)
  model = ViTConfig(**config.model)
  assert (model.dropout, model.stochastic_depth) == (dropout, 0)
  assert (model.image_size, model.pooling, model.representation_size) == (
    224, 'token', model.hidden_dim
  )  # fmt: skip
  name, _ = find_variant(text)
  assert variant_of(dataclasses.replace(model, num_classes=1000)) == name


def test_bits_pretraining_is_its_papers():
  for data, (epochs, classes, decays) in {
    'imagenet2012': (90, 1000, (30, 60, 80)),
    'imagenet21k': (90, 21_843, (30, 60, 80)),
    'jft300m': (40, 18_291, (10, 23, 30, 37)),
  }.items():
    config = run_config(pretrain.get_config(f'bit-R152x4,{data}'))
    steps = config.total_steps
    assert steps * 4096 / (0.99 * IMAGES[data]) == pytest.approx(epochs, rel=0.002)
    optimizer = config.optimizer
    assert (optimizer.name, optimizer.momentum, optimizer.clip_norm) == ('sgd', 0.9, 0)
    assert optimizer.weight_decay == 3e-5 / 0.03  # big_vision's, at a rate of 1
    schedule = make_schedule(optimizer, steps)
    assert float(schedule(2500)) == pytest.approx(0.03 * 4096 / 256 / 2)
    for number, epoch in enumerate(decays):
      before, after = (float(schedule(round(steps * (epoch + d) / epochs))) for d in (-0.1, 0.1))
      assert before == pytest.approx(0.48 * 0.1**number, rel=1e-5)
      assert after == pytest.approx(before / 10, rel=1e-5)
    assert config.loss == ('softmax' if data == 'imagenet2012' else 'sigmoid')
    model = ResNetConfig(**config.model)
    assert (model.stages, model.width, model.num_classes) == ('3,8,36,3', 4, classes)
    assert (config.data.crop, config.data.min_crop_area, config.data.flip) == (
      'tensorflow', 0.05, True
    )  # fmt: skip


# Mixup, RandAugment's layers and magnitude (AugReg's section 3.1).
AUGMENTATIONS = {
  'none': (0, 0, 0), 'light1': (0, 2, 0), 'light2': (0.2, 2, 10), 'medium1': (0.2, 2, 15),
  'medium2': (0.5, 2, 15), 'strong1': (0.5, 2, 20), 'strong2': (0.8, 2, 20),
}  # fmt: skip


def test_augregs_grid():
  assert augreg.AUGMENTATIONS.keys() == AUGMENTATIONS.keys()
  for name, wanted in AUGMENTATIONS.items():
    config = run_config(augreg.get_config(f'vit-S/16,imagenet21k,epochs=30,drop=.1,wd=.03,{name}'))
    data = config.data
    got = config.mixup.alpha, data.randaugment_layers, data.randaugment_magnitude
    assert got == wanted, name
    assert (config.model['dropout'], config.model['stochastic_depth']) == (0.1, 0.1)
    assert config.total_steps == round(30 * round(0.99 * 14_197_087) / 4096)
    assert config.optimizer.weight_decay == 3e-5
  usual = run_config(augreg.get_config('vit-B/16,imagenet2012'))
  assert usual.total_steps == 92_897
  assert (usual.mixup.alpha, usual.data.randaugment_magnitude) == AUGMENTATIONS['medium2'][::2]
  assert (usual.loss, usual.model['head_bias']) == ('sigmoid', -6.9)
  assert (usual.model['representation_size'], usual.model['dropout']) == (0, 0)
  optimizer = usual.optimizer
  assert (optimizer.weight_decay, optimizer.weight_decay_times) == (1e-4, 'schedule')
  assert (optimizer.learning_rate, optimizer.schedule, optimizer.clip_norm) == (1e-3, 'cosine', 1)
  assert (optimizer.warmup_steps, optimizer.momentum_dtype) == (10_000, 'bfloat16')
  tiny = run_config(augreg.get_config('ViT-Ti/16,imagenet21k'))
  assert (tiny.data.randaugment_layers, tiny.model['head_bias']) == (0, -10)


@pytest.mark.parametrize(
  ('arg', 'message'),
  [
    (
      'vit-H/14,imagenet21k',
      r'VARIANT is one of ViT-Ti/16, .* DATA one of imagenet2012, imagenet21k',
    ),
    ('B/16,imagenet21k', 'VARIANT is one of ViT-Ti/16'),
    ('vit-B/16', 'DATA one of'),
    ('vit-B/16,jft300m', 'DATA one of'),
    (
      'vit-B/16,imagenet21k,medium3',
      "not 'medium3'; the options, each at most once, are one of none",
    ),
    (
      'vit-B/16,imagenet21k,wd=.2',
      r"not 'wd=.2'; .*; wd=0.1 or 0.03; drop=0 or 0.1; epochs=300 or",
    ),
    ('vit-B/16,imagenet2012,epochs=30', r"not 'epochs=30'; .* epochs=300$"),
    ('vit-B/16,imagenet21k,none,light1', "not 'light1'"),
    ('vit-B/16,imagenet21k,', "not ''"),
  ],
)
def test_other_points_of_augregs_grid_are_refused_with_what_there_is(arg, message):
  with pytest.raises(UserError, match=message):
    augreg.get_config(arg)


@pytest.mark.parametrize('data', FINE_TUNING)
def test_fine_tuning_of_a_vit_is_its_papers(data):
  config, mixers = (run_config(finetune.get_config(f'{v}B/16,{data}')) for v in ('vit-', ''))
  assert (config.total_steps, config.batch_size) == (FINE_TUNING[data][0], 512)
  assert config.optimizer == mixers.optimizer  # momentum SGD, cosine, no weight decay, clip 1
  assert (config.model['image_size'], config.init_head) == (384, 'zero')
  assert config.data.eval_recipe == 'vit-jax'
  # A file of ImageNet-21k may have a representation layer, which is dropped with its head.
  assert 'representation_size' not in config.model


def bits_rule(images: int) -> tuple[list[int], float]:
  """Return the steps of BiT-HyperRule (warm-up, decays, end) and its mixup, by its paper."""
  if images < 20_000:
    return [100, 200, 300, 400, 500], 0.0
  if images < 500_000:
    return [500, 3000, 6000, 9000, 10_000], 0.1
  return [500, 6000, 12_000, 18_000, 20_000], 0.1


@pytest.mark.parametrize(
  ('variant', 'data', 'images', 'resize', 'crop'),
  [
    ('bit-R50x1', 'cifar10', 50_000, 160, 128),
    ('bit-R50x1', 'imagenet2012', 1_281_167, 448, 384),
    ('bit-R152x4', 'imagenet2012', 1_281_167, 512, 480),
    ('bit-R101x3', 'oxford_iiit_pet', 3680, 448, 384),
    ('bit-R50x1', 'avg5/cifar100', 49_000, 160, 128),
    ('bit-R50x1', 'vtab/svhn', 1000, 160, 128),
    ('bit-R50x1', 'vtab/dtd', 1000, 448, 384),
    ('bit-R50x1', 'vtab/clevr_count', 1000, 384, 384),  # a count: nothing is cut off
  ],
)
def test_fine_tuning_of_a_bit_is_its_rule(variant, data, images, resize, crop):
  config = run_config(finetune.get_config(f'{variant},{data}'))
  (warmup, *decays, end), mixup = bits_rule(images)
  assert (config.total_steps, config.mixup.alpha, config.mixup.per) == (end, mixup, 'batch')
  optimizer = config.optimizer
  assert (optimizer.name, optimizer.momentum, optimizer.weight_decay) == ('sgd', 0.9, 0)
  assert (config.batch_size, optimizer.clip_norm) == (512, 0)
  schedule = make_schedule(optimizer, end)
  for step in (0, warmup // 2, warmup, *decays, *(d - 1 for d in decays), end - 1):
    rate = 0.003 * min(step / warmup, 1) * 0.1 ** sum(step >= d for d in decays)
    assert float(schedule(step)) == pytest.approx(rate, rel=1e-5)
  assert (config.data.crop, config.data.crop_resize) == ('square', resize)
  assert config.model['image_size'] == config.data.resized_side(crop) - resize + crop == crop
  # Evaluation resizes to the crop and crops nothing.
  photo = np.random.default_rng(0).integers(0, 256, (90, 121, 3), np.uint8)
  data = cv2.imencode('.png', photo[..., ::-1])[1].tobytes()
  seen = recipes.eval_image(data, crop, config.data.eval_recipe, config.data.eval_crop_fraction)
  np.testing.assert_array_equal(seen, bilinear(photo, crop, crop, crop))


def test_transfer_of_other_families_tries_their_papers_rates():
  vit, bit = (transfer.get_config(variant) for variant in ('vit-B/16', 'bit-R50x1'))
  assert (vit.learning_rates.vtab, bit.learning_rates.vtab) == ((0.01,), (0.003,))
  assert vit.learning_rates.avg5 == (0.001, 0.003, 0.01, 0.03, 0.06)
  assert {task.model.image_size for task in vit.tasks.values()} == {384}
  assert vit.tasks['vtab/dtd'].total_steps == 2500
  small = transfer.get_config('vit-B/16,224').tasks
  assert {task.model.image_size for task in small.values()} == {224}
  assert {task.model.image_size for task in bit.tasks.values()} == {128, 384}


def test_every_config_is_one_of_a_run():
  for variant in VARIANTS:
    for task in ('imagenet2012', 'cifar10', *tasks.names()):
      run_config(finetune.get_config(f'{variant},{task}'))
  built = 0
  for name in VARIANTS:
    for row in ('imagenet2012', 'imagenet21k', 'jft300m'):
      with contextlib.suppress(UserError):
        config = run_config(pretrain.get_config(f'{name},{row}'))
        built += bool(initial_model.model_of(config))
  assert built == 16 + 13 + 3 * 9  # of Mixers, ViTs and BiTs
  for study in (permutation.get_config('digits'), data_scaling.get_config('digits')):
    assert {'resnet', 'vit'} < set(study.models)
    for config in study.models.values():
      initial_model.model_of(run_config(config))
  for name in ('digits_vit', 'digits_bit'):
    initial_model.model_of(run_config(f'configs/{name}.py'))
