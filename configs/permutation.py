"""Mixer, ResNet and ViT on shuffled pixels, section 3.4: `configs/permutation.py:SCALE`.

SCALE is digits, minutes on a laptop's CPU, or imagenet2012, the paper's Mixer-B/16 and
ResNet50x1, and ViT-B/16, which the paper does not have, at 224 px by Table 4's recipe. For
`mixer-jax permute`.
"""

from ml_collections import ConfigDict

from configs import common, digits, digits_vit, pretrain
from mixer_jax import VARIANTS, UserError


def get_config(arg: str) -> ConfigDict:
  """Return an experiment for each model, alike in everything else, and the number of seeds."""
  scales = {'digits': _digits, 'imagenet2012': _imagenet}
  if arg not in scales:
    raise UserError(f'configs/permutation.py:{arg}: there are {" and ".join(scales)}')
  return scales[arg]()


def _study(experiment: ConfigDict, seeds: int) -> ConfigDict:
  """Return the study of the models, ViT-B/16 among them; `experiment` is the Mixer's."""
  study = ConfigDict()
  study.seeds = seeds  # runs of each model on each kind of input
  study.models = ConfigDict()  # an experiment each, with the fields of configs/common.py
  study.models.mixer = experiment
  study.models.resnet = experiment.copy_and_resolve_references()
  study.models.vit = experiment.copy_and_resolve_references()
  common.resnet(study.models.resnet)
  common.use_variant(study.models.vit, VARIANTS['ViT-B/16'])
  return study


def _digits() -> ConfigDict:
  """Return the study at 16 px: a Mixer and a ViT of 16 tokens, and a ResNet of three units."""
  config = digits.get_config()
  config.total_steps = 400
  config.batch_size = 64
  config.eval_every = 25
  config.checkpoint_every = 200
  config.keep_checkpoints = 1
  config.data.train_split = 'train[:10%]'  # on all of it both models learn any order of the pixels
  config.data.permutation_patch = config.model.patch_size
  study = _study(config, seeds=3)
  study.models.resnet.model.update(stages='1,1,1', width=0.125, stem='cifar', groups=4)
  study.models.vit.model.update(digits_vit.SIZES)
  return study


def _imagenet() -> ConfigDict:
  """Return B/16, ResNet50x1 and ViT-B/16, 300 epochs at batch 4096, one seed."""
  config = pretrain.get_config('B/16,imagenet2012')
  config.data.permutation_patch = config.model.patch_size
  config.data.test_split = ''  # curves of the evaluation split are compared
  return _study(config, seeds=1)
