"""The paper's pre-training runs, Table 4: `configs/pretrain.py:VARIANT,ROW[,DATA]`.

VARIANT is one of Table 1, such as L/16; ROW is imagenet2012, imagenet21k (which
`mixer-jax data prepare imagenet21k` makes from the official archive) or jft300m, which was never
public: it can be planned. DATA replaces the images of the row, as in B/32,jft300m,imagenet21k:
a TFDS name, or folder:DIR with a folder per class. The recipe then runs for the
epochs of the row on DATA.
"""

from ml_collections import ConfigDict

from configs import common
from mixer_jax import VARIANTS, UserError
from mixer_jax.data.catalog import class_ids
from mixer_jax.data.folders import class_names, split_folders
from mixer_jax.models.paper import IMAGES

_TRAINED_SHARE = 0.99  # train[:99%]

# JFT-300M's number is that of Sun et al. 2017 (arXiv 1707.02968).
_CLASSES = {'imagenet2012': 1000, 'imagenet21k': 21_843, 'jft300m': 18_291}

# (size or variant, data set) -> epochs, learning rate, weight decay, RandAugment's magnitude,
# mixup and stochastic depth. Dropout is 0 in all. On JFT-300M the paper trains L for 7 epochs and
# for 14: Table 3 has L/32 with 7, and L/16 with both. --config.total_epochs=7 selects the other.
_ROWS = {
  ('B', 'imagenet2012'): (300, 1e-3, 0.1, 15, 0.5, 0.1),
  ('L', 'imagenet2012'): (300, 1e-3, 0.1, 15, 0.5, 0.1),
  ('B', 'imagenet21k'): (300, 1e-3, 0.1, 10, 0.2, 0.1),
  ('L', 'imagenet21k'): (300, 1e-3, 0.1, 20, 0.5, 0.1),
  ('S', 'jft300m'): (5, 3e-3, 0.03, None, 0.0, 0.0),
  ('B', 'jft300m'): (7, 3e-3, 0.03, None, 0.0, 0.0),
  ('L/32', 'jft300m'): (7, 1e-3, 0.03, None, 0.0, 0.0),
  ('L', 'jft300m'): (14, 1e-3, 0.03, None, 0.0, 0.0),
  ('H', 'jft300m'): (14, 1e-3, 0.03, None, 0.0, 0.0),
}


def get_config(arg: str) -> ConfigDict:
  """Return one row of Table 4 at 224 px, batch 4096; the last 1 % of train is held out."""
  name, _, rest = arg.partition(',')
  row, _, stand_in = rest.partition(',')
  recipe = _ROWS.get((name, row)) or _ROWS.get((name[:1], row))
  if name not in VARIANTS or recipe is None:
    rows = ', '.join(f'{size}/…,{known}' for size, known in _ROWS if '/' not in size)
    raise UserError(f'configs/pretrain.py:{arg}: Table 4 has {rows}, as in L/16,imagenet21k')
  epochs, learning_rate, weight_decay, magnitude, mixup, stochastic_depth = recipe
  config = common.get_config()
  if stand_in:
    config.total_epochs = float(epochs)
  else:
    # As total_epochs counts, without the data: in images that are trained on.
    images = round(_TRAINED_SHARE * IMAGES[row])
    config.total_steps = round(epochs * images / config.batch_size)

  variant = VARIANTS[name]
  for field in ('patch_size', 'num_blocks', 'hidden_dim', 'tokens_mlp_dim', 'channels_mlp_dim'):
    config.model[field] = getattr(variant, field)
  config.model.stochastic_depth = stochastic_depth

  config.mixup = mixup
  if row == 'imagenet2012':  # as in the authors' public recipe; the paper names no loss
    config.loss = 'sigmoid'
    config.model.head_bias = -6.9

  config.data.name = stand_in or row
  config.model.num_classes = _classes(config.data.name)
  config.data.train_split = 'train[:99%]'
  config.data.eval_split = 'train[99%:]'
  if config.data.name == 'imagenet2012':
    config.data.test_split = 'validation'  # the split of the paper's figures
  elif config.data.name.startswith('folder:'):
    _use_split_folders(config.data)
  if magnitude is not None:
    config.data.randaugment_layers = 2
    config.data.randaugment_magnitude = float(magnitude)

  config.optimizer.learning_rate = learning_rate
  config.optimizer.weight_decay = weight_decay
  return config


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
