"""A checkpoint on a data set: `configs/evaluate.py:DATASET`.

DATASET is any TFDS name, such as imagenet2012, imagenet2012_real, imagenet_v2 or cifar10;
`digits`; a task, such as vtab/clevr_count; or `folder:DIR`, with a folder of images per class, of
which all are evaluated, or with test/ or val/ that have these inside.
"""

from ml_collections import ConfigDict

from configs import common
from mixer_jax.data.folders import split_folders
from mixer_jax.data.tasks import find_task, is_task

_SPLITS = {'imagenet2012': 'validation', 'imagenet2012_real': 'validation'}


def get_config(dataset: str) -> ConfigDict:
  """Return the whole evaluation split, by the recipe of the checkpoint."""
  config = common.get_config()
  config.data.name = dataset
  config.data.eval_split = _SPLITS.get(dataset.split(':')[0], 'test')
  if dataset.startswith('folder:'):
    splits = split_folders(dataset.removeprefix('folder:'))
    best_first = (splits[name] for name in ('test', 'validation', 'train') if name in splits)
    config.data.eval_split = next(best_first, '')
  if is_task(dataset):
    config.data.train_split, config.data.eval_split = find_task(dataset).reporting
  config.data.eval_recipe = (
    'checkpoint'  # of its run, or of its published file; otherwise resmall-crop
  )
  config.eval_batch_size = 0  # 32 images per device
  return config
