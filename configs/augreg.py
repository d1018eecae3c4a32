"""AugReg's pre-training of ViTs (Steiner et al. 2021): `configs/augreg.py:VARIANT,DATA[,OPTION…]`.

VARIANT is a ViT, such as vit-B/16; DATA is imagenet2012 or imagenet21k. The options, in any order,
choose a point of the paper's grid, as in vit-B/16,imagenet21k,medium2,wd=0.03,drop=0.1,epochs=30:

* the augmentation: none, light1, light2, medium1, medium2, strong1 or strong2;
* wd, the weight decay: 0.1 or 0.03;
* drop, both dropout and stochastic depth: 0 or 0.1;
* epochs: 300, or 30 of imagenet21k.

Without an option it is 300 epochs, weight decay .1, no dropout, and the augmentation that the
authors' code takes for the size of the model and of the data.
"""

from typing import Any

from ml_collections import ConfigDict

from configs import common, pretrain
from mixer_jax import UserError, find_variant

# Section 3.1. Name -> mixup, and RandAugment's layers and magnitude.
AUGMENTATIONS = {
  'none': (0.0, 0, 0.0),
  'light1': (0.0, 2, 0.0),
  'light2': (0.2, 2, 10.0),
  'medium1': (0.2, 2, 15.0),
  'medium2': (0.5, 2, 15.0),
  'strong1': (0.5, 2, 20.0),
  'strong2': (0.8, 2, 20.0),
}

# Variant -> augmentation on imagenet2012, on imagenet21k: big_vision's vit_i1k and vit_i21k, which
# do not have B/8.
_DEFAULTS = {
  'ViT-Ti/16': ('light1', 'none'),
  'ViT-S/32': ('medium1', 'none'),
  'ViT-S/16': ('medium2', 'light1'),
  'ViT-B/32': ('medium2', 'light2'),
  'ViT-B/16': ('medium2', 'light2'),
  'ViT-B/8': ('medium2', 'light2'),
  'ViT-L/16': ('medium2', 'medium2'),
}
_WEIGHT_DECAY = {0.1: 1e-4, 0.03: 3e-5}  # of the paper -> of the authors' code
_EPOCHS = {'imagenet2012': (300,), 'imagenet21k': (300, 30)}


def get_config(arg: str) -> ConfigDict:
  """Return a run of the grid: Adam, batch 4096, 224 px; the last 1 % of train is held out."""
  text, data, *options = arg.split(',') if ',' in arg else (arg, '')
  name, variant = find_variant(text)
  if name not in _DEFAULTS or data not in _EPOCHS:
    raise UserError(
      f'configs/augreg.py:{arg}: VARIANT is one of {", ".join(_DEFAULTS)}, DATA one of '
      f'{", ".join(_EPOCHS)}, as in vit-B/16,imagenet21k'
    )
  chosen = _chosen(arg, options, data)
  augmentation = chosen.get('augmentation', _DEFAULTS[name][list(_EPOCHS).index(data)])
  config = common.get_config()
  common.use_variant(config, variant)
  pretrain.train_on(config, data, chosen.get('epochs', 300))
  pretrain.use_sigmoid(config, data)
  config.mixup, config.data.randaugment_layers, config.data.randaugment_magnitude = AUGMENTATIONS[
    augmentation
  ]
  config.model.dropout = config.model.stochastic_depth = chosen.get('drop', 0.0)
  # As in the authors' code: it does not follow a changed learning rate.
  config.optimizer.weight_decay = _WEIGHT_DECAY[chosen.get('wd', 0.1)]
  config.optimizer.weight_decay_times = 'schedule'
  config.optimizer.schedule = 'cosine'
  config.optimizer.momentum_dtype = 'bfloat16'
  return config


def _chosen(arg: str, options: list[str], data: str) -> dict[str, Any]:
  """Return option -> value of those that are given."""
  values = {'wd': tuple(_WEIGHT_DECAY), 'drop': (0.0, 0.1), 'epochs': _EPOCHS[data]}
  chosen: dict[str, Any] = {}
  for option in options:
    key, _, text = option.partition('=')
    if option in AUGMENTATIONS:
      key, found = 'augmentation', [option]
    else:
      found = [value for value in values.get(key, ()) if _number(text) == value]
    if not found or key in chosen:
      listed = '; '.join(f'{k}={" or ".join(f"{v:g}" for v in vs)}' for k, vs in values.items())
      raise UserError(
        f'configs/augreg.py:{arg}: not {option!r}; the options, each at most once, are one of '
        f'{", ".join(AUGMENTATIONS)}; {listed}'
      )
    chosen[key] = found[0]
  return chosen


def _number(text: str) -> float | None:
  try:
    return float(text)
  except ValueError:
    return None
