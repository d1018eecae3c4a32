"""The papers' fine-tuning: `configs/finetune.py:VARIANT,DATASET`.

VARIANT is a Mixer, such as B/16 (Appendix C), a ViT, such as vit-B/16 (Table 4 of its paper), or a
BiT, such as bit-R50x1 (its HyperRule); DATASET is imagenet2012, cifar10, cifar100, oxford_iiit_pet
or oxford_flowers102, or a task of VTAB-1k or Avg 5, such as vtab/clevr_count. It starts from the
weights published for ImageNet-21k, if there are any, or from --config.init_from: a published name,
a workdir or a weights file.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common
from mixer_jax import UserError, find_variant, models, released
from mixer_jax.data.tasks import Task, find_task, is_task


class _DataSet(NamedTuple):
  """Classes, training images, and the recipe of the Mixer's and of the ViT's paper."""

  classes: int
  images: int
  side: int  # pixels, the square root of a usual area
  steps: int  # of the ViT paper's Table 4
  warmup_steps: int  # of the authors' code
  train: str = 'train'
  evaluation: str = 'test'


_DATASETS = {  # by TFDS name
  'imagenet2012': _DataSet(1000, 1_281_167, 430, 20_000, 500, evaluation='validation'),
  'cifar10': _DataSet(10, 50_000, 32, 10_000, 500),
  'cifar100': _DataSet(100, 50_000, 32, 10_000, 500),
  'oxford_iiit_pet': _DataSet(37, 3680, 430, 500, 100),
  # Its train and validation splits are small; both are used.
  'oxford_flowers102': _DataSet(102, 2040, 590, 500, 100, train='train+validation'),
}

_AUGREG = {
  'Ti_16': 'Ti_16-i21k-300ep-lr_0.001-aug_none-wd_0.03-do_0.0-sd_0.0',
  'S_32': 'S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0',
  'S_16': 'S_16-i21k-300ep-lr_0.001-aug_light1-wd_0.03-do_0.0-sd_0.0',
}

# Fields of the weights that may differ: grown, dropped with the head, or as another file has them.
_NOT_COMPARED = ('tokens_mlp_dim', 'pooling', 'position', 'representation_size')


def get_config(arg: str) -> ConfigDict:
  """Return fine-tuning at the size of the paper: of a Mixer 224 px, or that of a VTAB-1k task.

  --config.model.image_size=448 grows the token MLPs of a Mixer (K = 2). Its paper tries the
  learning rates .003, .01, .03 and, except on VTAB-1k, .06. This is .01; `mixer-jax transfer` tries
  all.
  """
  text, _, data = arg.partition(',')
  if not (data in _DATASETS or is_task(data)):
    raise UserError(
      f'configs/finetune.py:{arg}: VARIANT is one such as B/16, vit-B/16 or bit-R50x1, DATASET of '
      f'{", ".join(_DATASETS)}, as in B/16,cifar10, or a task, as in B/16,vtab/clevr_count'
    )
  name, variant = find_variant(text)
  config = common.finetune(common.get_config())
  config.eval_batch_size = 512
  config.init_from = _weights(name)
  default = config.model.family
  common.use_variant(config, variant)
  common.keep_architecture(config)
  # A checkpoint with other sizes is refused.
  sizes = {f: v for f, v in models.architecture(variant).items() if f not in _NOT_COMPARED}
  if sizes['family'] == default:  # configs of earlier versions do not name it
    del sizes['family']
  config.model.update(sizes)
  config.model.image_size = 224
  if is_task(data):
    to_task(config, find_task(data))
  else:
    _to_data_set(config, data)
  if adapt := _OTHERS.get(name.split('-')[0]):
    adapt(config, name, data)
  return config


def _weights(name: str) -> str:
  """Return the name of the published weights for ImageNet-21k; '': there are none.

  Those of a ViT are the ViT paper's, whose recipe this is, or the ones that AugReg recommends for
  the sizes that it added.
  """
  family, _, size = name.replace('/', '_').rpartition('-')
  own = {'ViT': _AUGREG.get(size, f'imagenet21k/ViT-{size}'), 'BiT': f'BiT-M-{size}'}
  wanted = own.get(family, f'imagenet21k/Mixer-{size}')
  return next((known for known in released if known.endswith(wanted)), '')


def _to_data_set(config: ConfigDict, name: str) -> None:
  data = _DATASETS[name]
  config.model.num_classes = data.classes
  config.total_steps = data.steps
  config.optimizer.warmup_steps = data.warmup_steps
  config.data.name = name
  config.data.train_split = data.train
  config.data.eval_split = data.evaluation


def to_task(config: ConfigDict, task: Task) -> None:
  """Sets the fields of a task; `config.model.image_size` stands for 224 px in the paper."""
  if task.group == 'avg5':
    _to_data_set(config, task.data_set)
  else:
    config.total_steps = 500  # or 2500: the paper's texts disagree
    config.optimizer.warmup_steps = 100
    config.model.num_classes = task.classes
    config.model.image_size *= task.size // 224
    _crop_as_vtab(config, task)
  config.eval_every = 0  # the test split is evaluated once
  config.keep_checkpoints = 1
  config.data.name = task.name
  config.data.train_split, config.data.eval_split = task.reporting
  config.data.flip = task.flip


def _crop_as_vtab(config: ConfigDict, task: Task) -> None:
  """Sets the crops of VTAB-1k, whose figures are in Table 2: its evaluation is resize-crop.

  The paper does not say how training crops. Other code of the authors for these tasks (BiT,
  scenic) resizes to 256 × 256 and takes a random 224 × 224, 77 % of the area; this is the closest
  to it. If a label is a count, a place or a distance, nothing is cropped.
  """
  # TensorFlow's draw finds no crop of one exact area.
  config.data.crop = 'uniform-area' if task.crop else 'tensorflow'
  area, aspects, fraction = 0.875**2, (3 / 4, 4 / 3), 0.875
  if not task.crop:
    area, aspects, fraction = 1.0, (1.0, 1.0), 1.0
  config.data.min_crop_area = config.data.max_crop_area = area
  config.data.min_crop_aspect, config.data.max_crop_aspect = aspects
  config.data.eval_recipe = 'resize-crop'
  config.data.eval_crop_fraction = fraction


def _as_vit(config: ConfigDict, name: str, data: str) -> None:
  """Sets what is different for a ViT: 384 px for all tasks (its paper's section 4.1, Appendix B.1).

  It tries the learning rates .001, .003, .01, .03, on ImageNet .003 to .06, and takes .01 for
  VTAB-1k. Evaluation is that of the authors' code: nothing is cropped.
  """
  del name
  config.model.image_size = 384
  if data.startswith('vtab/'):
    config.total_steps = 2500
    config.optimizer.warmup_steps = 500
  else:
    config.data.eval_recipe = 'vit-jax'


def _as_bit(config: ConfigDict, name: str, data: str) -> None:
  """Sets BiT-HyperRule (Kolesnikov et al. 2020, section 3.3), by number and size of the images.

  The paper resizes larger images to 448 and crops 384 px, those of R152x4 to 512 and 480. The
  authors' released code does the latter with all models: --config.data.crop_resize=512
  --config.model.image_size=480. Evaluation resizes to the size of the crop and crops nothing.
  """
  task = find_task(data) if is_task(data) else None
  if task and task.group != 'avg5':
    images, is_small = 1000, task.size == 224
  else:
    row = _DATASETS[task.data_set if task else data]
    images, is_small = row.images, row.side < 96
  resize, crop = (160, 128) if is_small else (512, 480) if name == 'BiT-R152x4' else (448, 384)
  config.model.image_size = crop
  config.data.crop = 'square'
  config.data.crop_resize = crop if task and not task.crop else resize
  config.data.eval_recipe = 'vit-jax'
  is_few = images < 20_000
  config.mixup = 0.0 if is_few else 0.1
  config.total_steps = 500 if is_few else 10_000 if images < 500_000 else 20_000
  config.optimizer.warmup_steps = 100 if is_few else 500
  config.optimizer.learning_rate = 0.003
  config.optimizer.schedule = 'steps'
  config.optimizer.decay_at = (0.4, 0.6, 0.8) if is_few else (0.3, 0.6, 0.9)
  config.optimizer.clip_norm = 0.0


_OTHERS = {'ViT': _as_vit, 'BiT': _as_bit}
"""Beginning of a variant's name -> what is not as for a Mixer."""
