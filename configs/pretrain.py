"""The papers' pre-training runs: `configs/pretrain.py:VARIANT,ROW[,DATA]`.

VARIANT is a Mixer of Table 1, such as L/16, a ViT, such as vit-B/16, or a BiT, such as bit-R50x1;
ROW is imagenet2012, imagenet21k (which `mixer-jax data prepare imagenet21k` makes from the official
archive) or jft300m, which was never public: it can be planned. DATA replaces the images of the row,
as in B/32,jft300m,imagenet21k: a TFDS name, or folder:DIR with a folder per class. The recipe then
runs for the epochs of the row on DATA. configs/augreg.py has the other recipes of ViTs.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common
from mixer_jax import UserError, find_variant
from mixer_jax.data.catalog import class_ids
from mixer_jax.data.folders import class_names, split_folders
from mixer_jax.models.paper import IMAGES

_TRAINED_SHARE = 0.99  # train[:99%]

# JFT-300M's number is that of Sun et al. 2017 (arXiv 1707.02968).
_CLASSES = {'imagenet2012': 1000, 'imagenet21k': 21_843, 'jft300m': 18_291}

# Biases of the head at the start where the loss is sigmoid: those of the authors' code. It has none
# for JFT-300M.
_HEAD_BIAS = {'imagenet2012': -6.9, 'imagenet21k': -10.0, 'jft300m': -10.0}


class _Mixer(NamedTuple):
  """A row of the Mixer paper's Table 4. Dropout is 0 in all; common.py has what all have."""

  epochs: int
  learning_rate: float
  weight_decay: float
  magnitude: int | None  # of RandAugment
  mixup: float
  stochastic_depth: float

  def apply(self, config: ConfigDict, row: str) -> None:
    """Set the fields of the recipe."""
    config.model.stochastic_depth = self.stochastic_depth
    config.mixup = self.mixup
    if self.magnitude is not None:
      config.data.randaugment_layers = 2
      config.data.randaugment_magnitude = float(self.magnitude)
    config.optimizer.learning_rate = self.learning_rate
    config.optimizer.weight_decay = self.weight_decay
    if row == 'imagenet2012':  # as in the authors' public recipe; the paper names no loss
      use_sigmoid(config, row)


class _ViT(NamedTuple):
  """A row of the ViT paper's Table 3 (Dosovitskiy et al. 2021)."""

  epochs: int
  learning_rate: float

  def apply(self, config: ConfigDict, row: str) -> None:
    """Set the fields of the recipe.

    The paper names no loss; this is that of the authors' code for ViTs (AugReg). A layer with tanh
    is before the head, which fine-tuning drops.
    """
    config.model.representation_size = config.model.hidden_dim
    config.model.dropout = 0.0 if row == 'jft300m' else 0.1
    config.optimizer.learning_rate = self.learning_rate
    decay = {'imagenet2012': 0.3, 'imagenet21k': 0.03, 'jft300m': 0.1}
    config.optimizer.weight_decay = decay[row]
    config.optimizer.schedule = 'cosine' if row == 'imagenet2012' else 'linear'
    config.optimizer.clip_norm = 1.0 if row == 'imagenet2012' else 0.0
    use_sigmoid(config, row)


class _BiT(NamedTuple):
  """Pre-training of BiT-S, BiT-M and BiT-L (Kolesnikov et al. 2020, section 3.2)."""

  epochs: int
  decay_at: tuple[int, ...]  # epochs

  def apply(self, config: ConfigDict, row: str) -> None:
    """Set the fields of the recipe.

    The authors' weight decay of 1e-4 is part of the gradient, of which momentum .9 sums ten:
    subtracted apart, as here, the same is 1e-3 of the learning rate. Their later code for
    ImageNet-21k, which subtracts it apart too, has this value (3e-5 at a rate of .03).
    """
    config.optimizer.name = 'sgd'
    config.optimizer.learning_rate = 0.03 * config.batch_size / 256
    config.optimizer.warmup_steps = 5000
    config.optimizer.schedule = 'steps'
    config.optimizer.decay_at = tuple(epoch / self.epochs for epoch in self.decay_at)
    config.optimizer.weight_decay = 1e-3
    config.optimizer.clip_norm = 0.0
    if row != 'imagenet2012':
      use_sigmoid(config, row)


# (variant, or its name up to '/' or '-', row) -> recipe. On JFT-300M both papers train
# L for 7 epochs and for 14: the Mixer's Table 3 has L/32 with 7, and L/16 with both. ViT-L has 30
# epochs and 90 of ImageNet-21k. --config.total_epochs=7 selects the other.
_ROWS = {
  ('B/', 'imagenet2012'): _Mixer(300, 1e-3, 0.1, 15, 0.5, 0.1),
  ('L/', 'imagenet2012'): _Mixer(300, 1e-3, 0.1, 15, 0.5, 0.1),
  ('B/', 'imagenet21k'): _Mixer(300, 1e-3, 0.1, 10, 0.2, 0.1),
  ('L/', 'imagenet21k'): _Mixer(300, 1e-3, 0.1, 20, 0.5, 0.1),
  ('S/', 'jft300m'): _Mixer(5, 3e-3, 0.03, None, 0.0, 0.0),
  ('B/', 'jft300m'): _Mixer(7, 3e-3, 0.03, None, 0.0, 0.0),
  ('L/32', 'jft300m'): _Mixer(7, 1e-3, 0.03, None, 0.0, 0.0),
  ('L/', 'jft300m'): _Mixer(14, 1e-3, 0.03, None, 0.0, 0.0),
  ('H/', 'jft300m'): _Mixer(14, 1e-3, 0.03, None, 0.0, 0.0),
  ('ViT-B/32', 'imagenet2012'): _ViT(300, 3e-3),
  ('ViT-B/16', 'imagenet2012'): _ViT(300, 3e-3),
  ('ViT-L/', 'imagenet2012'): _ViT(300, 3e-3),
  ('ViT-B/32', 'imagenet21k'): _ViT(90, 1e-3),
  ('ViT-B/16', 'imagenet21k'): _ViT(90, 1e-3),
  ('ViT-L/', 'imagenet21k'): _ViT(90, 1e-3),
  ('ViT-B/32', 'jft300m'): _ViT(7, 8e-4),
  ('ViT-B/16', 'jft300m'): _ViT(7, 8e-4),
  ('ViT-L/32', 'jft300m'): _ViT(7, 6e-4),
  ('ViT-L/', 'jft300m'): _ViT(14, 4e-4),
  ('ViT-H/', 'jft300m'): _ViT(14, 3e-4),
  ('BiT-', 'imagenet2012'): _BiT(90, (30, 60, 80)),
  ('BiT-', 'imagenet21k'): _BiT(90, (30, 60, 80)),
  ('BiT-', 'jft300m'): _BiT(40, (10, 23, 30, 37)),
}


def get_config(arg: str) -> ConfigDict:
  """Return one row of a paper's table at 224 px, batch 4096; the last 1 % of train is held out."""
  text, _, rest = arg.partition(',')
  row, _, stand_in = rest.partition(',')
  name, variant = find_variant(text)
  keys = (name, *(name.partition(mark)[0] + mark for mark in '/-'))
  recipe = next(filter(None, (_ROWS.get((key, row)) for key in keys)), None)
  if recipe is None:
    raise UserError(f'configs/pretrain.py:{arg}: {_known()}, as in L/16,imagenet21k')
  config = common.get_config()
  common.use_variant(config, variant)
  train_on(config, row, recipe.epochs, stand_in)
  recipe.apply(config, row)
  return config


def _known() -> str:
  """Return the rows in words."""
  models = {row: [key for key, own in _ROWS if own == row] for row in _CLASSES}
  shown = lambda key: f'{key}…' if key[-1] in '/-' else key
  listed = (f'{", ".join(map(shown, keys))} on {row}' for row, keys in models.items())
  return f'the tables have {"; ".join(listed)}'


def use_sigmoid(config: ConfigDict, row: str) -> None:
  """Set the sum of binary losses, and a bias at which few classes are likely at the start."""
  config.loss = 'sigmoid'
  config.model.head_bias = _HEAD_BIAS[row]


def train_on(config: ConfigDict, row: str, epochs: int, stand_in: str = '') -> None:
  """Set data, splits, classes and length of a run; the last 1 % of train is held out.

  Args:
    row: imagenet2012, imagenet21k or jft300m.
    stand_in: other data, of which there are as many epochs.
  """
  if stand_in:
    config.total_epochs = float(epochs)
  else:
    # As total_epochs counts, without the data: in images that are trained on.
    images = round(_TRAINED_SHARE * IMAGES[row])
    config.total_steps = round(epochs * images / config.batch_size)
  config.data.name = stand_in or row
  config.model.num_classes = _classes(config.data.name)
  config.data.train_split = 'train[:99%]'
  config.data.eval_split = 'train[99%:]'
  if config.data.name == 'imagenet2012':
    config.data.test_split = 'validation'  # the split of the papers' figures
  elif config.data.name.startswith('folder:'):
    _use_split_folders(config.data)


def _use_split_folders(data: ConfigDict) -> None:
  """Evaluate on val/ in place of a part of train/, and report on test/, if they are there."""
  splits = split_folders(data.name.removeprefix('folder:'))
  if 'validation' in splits:
    data.train_split, data.eval_split = 'train', splits['validation']
  data.test_split = splits.get('test', '')


def _classes(data: str) -> int:
  """Return the number of classes; the data set need not be prepared."""
  if data.startswith('folder:'):
    return len(class_names(data.removeprefix('folder:')))
  return _CLASSES.get(data) or len(class_ids(data))
