"""The paper's fine-tuning, Appendix C: `configs/finetune.py:VARIANT,DATASET`.

VARIANT is one of Table 1, such as B/16; DATASET is imagenet2012, cifar10, cifar100,
oxford_iiit_pet or oxford_flowers102, or a task of VTAB-1k or Avg 5, such as vtab/clevr_count. It
starts from the weights published for ImageNet-21k, if there are any, or from
--config.init_from: a published name, a workdir or a weights file.
"""

from ml_collections import ConfigDict

from configs import common
from mixer_jax import VARIANTS, UserError, released
from mixer_jax.data.tasks import Task, find_task, is_task

# TFDS name -> classes, steps, warm-up steps, train split, evaluation split. Steps are those of the
# ViT paper's Table 4, warm-up of the authors' code.
_DATASETS = {
  'imagenet2012': (1000, 20_000, 500, 'train', 'validation'),
  'cifar10': (10, 10_000, 500, 'train', 'test'),
  'cifar100': (100, 10_000, 500, 'train', 'test'),
  'oxford_iiit_pet': (37, 500, 100, 'train', 'test'),
  # Its train and validation splits are small; both are used.
  'oxford_flowers102': (102, 500, 100, 'train+validation', 'test'),
}


def get_config(arg: str) -> ConfigDict:
  """Return fine-tuning at 224 px, or at the size of a VTAB-1k task.

  --config.model.image_size=448 grows the token MLPs (K = 2). The paper tries the learning rates
  .003, .01, .03 and, except on VTAB-1k, .06. This is .01; `mixer-jax transfer` tries all.
  """
  name, _, data = arg.partition(',')
  if name not in VARIANTS or not (data in _DATASETS or is_task(data)):
    raise UserError(
      f'configs/finetune.py:{arg}: VARIANT is one of {", ".join(VARIANTS)}, DATASET of '
      f'{", ".join(_DATASETS)}, as in B/16,cifar10, or a task, as in B/16,vtab/clevr_count'
    )
  config = common.finetune(common.get_config())
  config.eval_batch_size = 512
  weights = f'imagenet21k/Mixer-{name.replace("/", "_")}'
  config.init_from = weights if weights in released else ''
  common.keep_architecture(config)
  for field in ('patch_size', 'num_blocks', 'hidden_dim', 'channels_mlp_dim'):
    config.model[field] = getattr(VARIANTS[name], field)  # a checkpoint with other sizes is refused
  config.model.image_size = 224
  if is_task(data):
    to_task(config, find_task(data))
  else:
    _to_data_set(config, data)
  return config


def _to_data_set(config: ConfigDict, name: str) -> None:
  classes, steps, warmup, train, evaluation = _DATASETS[name]
  config.model.num_classes = classes
  config.total_steps = steps
  config.optimizer.warmup_steps = warmup
  config.data.name = name
  config.data.train_split = train
  config.data.eval_split = evaluation


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
