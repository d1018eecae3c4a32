"""Accuracy against the number of training images: `configs/data_scaling.py:DATA`.

DATA is digits, which takes minutes on a laptop's CPU, or, at full scale, a replacement for
JFT-300M: a TFDS name such as imagenet21k, or folder:DIR. For `mixer-jax scaling`.
"""

from ml_collections import ConfigDict

from configs import common, digits, digits_vit, pretrain


def get_config(data: str) -> ConfigDict:
  """Return the study of JFT-300M's parts: 3, 10, 30 and 100 % for 233, 70, 23 and 7 epochs.

  Each run stops early, by images that are held out of all parts.
  """
  study = ConfigDict()
  study.seeds = 1  # runs of each model on each part
  # Of the train_split of each experiment: its first images.
  study.percents = common.values(3, 10, 30, 100)
  # Passes over each of these parts, unless early stopping ends them.
  study.epochs = common.values(233, 70, 23, 7)
  # Metric of the best state of each run that is compared: top1 of its test_split, or of its
  # eval_split if it has no other; or 5-shot, as in the paper, for experiments that have it
  # (`fewshot.every`).
  study.metric = 'top1'
  study.models = ConfigDict()  # an experiment each, with the fields of configs/common.py
  if data == 'digits':
    _digits(study)
  else:
    for name in ('B/32', 'B/16', 'L/16', 'ViT-B/32', 'ViT-L/16'):
      study.models[name] = pretrain.get_config(f'{name},jft300m,{data}')
      study.models[name].early_stopping.patience = 5
  return study


def _digits(study: ConfigDict) -> None:
  """Adds two Mixers, a ResNet and a ViT at 16 px; twice the epochs, and three seeds."""
  config = digits.get_config()
  config.batch_size = 64
  config.eval_batch_size = 72
  config.eval_every = 20
  config.checkpoint_every = 100
  config.keep_checkpoints = 1
  config.early_stopping.patience = 5
  config.optimizer.warmup_steps = 50
  config.data.train_split = 'train[:80%]'
  config.data.eval_split = 'train[80%:]'
  config.data.test_split = 'test'
  study.seeds = 3
  study.epochs = common.values(466, 140, 46, 14)
  for name in ('mixer-s', 'mixer-b', 'resnet', 'vit'):
    study.models[name] = config.copy_and_resolve_references()
  study.models['mixer-s'].model.update(
    num_blocks=2, hidden_dim=32, tokens_mlp_dim=16, channels_mlp_dim=128
  )
  common.resnet(study.models.resnet)
  study.models.resnet.model.update(stages='1,1,1', width=0.125, stem='cifar', groups=4)
  common.use_family(study.models.vit, 'vit')
  study.models.vit.model.update(digits_vit.SIZES)
