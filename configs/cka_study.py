"""CKA between Mixers of several depths, widths, seeds and data sets: `configs/cka_study.py:SCALE`.

SCALE is digits, small enough for a laptop's CPU, or cifar10 or cifar100: 8, 12, 24 and 32 blocks
of width 384, and 12 blocks of width 256 to 640. For `mixer-jax cka-study`.
"""

from ml_collections import ConfigDict

from configs import common, digits
from mixer_jax import UserError

_CLASSES = {'cifar10': 10, 'cifar100': 100}


def get_config(arg: str) -> ConfigDict:
  """Return an experiment for each model, the number of seeds, and settings of CKA and probes."""
  if arg == 'digits':
    return _digits()
  if arg in _CLASSES:
    return _cifar(arg)
  raise UserError(f'configs/cka_study.py:{arg}: there are digits, {" and ".join(_CLASSES)}')


def _study(models: dict[str, ConfigDict]) -> ConfigDict:
  """Return the study of these models.

  Layers are compared on the evaluation images of the model that is first by its name.
  """
  study = ConfigDict()
  study.seeds = 2  # runs of each model
  study.layers = common.values('block_*')  # patterns of names, as of `mixer-jax cka --layers`
  study.features = 'flatten'  # one row per image of all tokens and channels; 'tokens': their mean
  study.kernels = common.values('linear', 'rbf')
  study.bandwidth = 0.5  # of rbf: share of the median distance in each minibatch
  study.probe = ConfigDict()  # fields of mixer_jax.evaluation.probe.ProbeConfig
  study.probe.l2 = 1e-3  # of the weights
  study.probe.iterations = 500  # of L-BFGS, at most
  study.models = ConfigDict()  # an experiment each, with the fields of configs/common.py
  for name, experiment in models.items():
    study.models[name] = experiment
  return study


def _edited(base: ConfigDict, **fields) -> ConfigDict:
  """Return a copy with other sizes; both MLPs follow the width as they do in Table 1."""
  config = base.copy_and_resolve_references()
  config.model.update(fields)
  config.model.tokens_mlp_dim = config.model.hidden_dim // 2
  config.model.channels_mlp_dim = 4 * config.model.hidden_dim
  return config


def _digits() -> ConfigDict:
  """Return 4, 8, 12 blocks of width 64, 8 of width 32 and 128, and two halves of the images."""
  base = digits.get_config()
  base.total_steps = 800
  base.batch_size = 64
  base.eval_batch_size = 120
  base.eval_every = 400
  base.checkpoint_every = 400
  base.keep_checkpoints = 1
  models = {f'blocks_{n}': _edited(base, num_blocks=n, hidden_dim=64) for n in (8, 4, 12)}
  for width in (32, 128):
    models[f'width_{width}'] = _edited(base, num_blocks=8, hidden_dim=width)
  # Only one small data set needs no download: its halves replace two data sets.
  for name, half in (('half_a', 'train[:50%]'), ('half_b', 'train[50%:]')):
    models[name] = _edited(base, num_blocks=8, hidden_dim=64)
    models[name].data.train_split = half
  return _study(models)


def _cifar(name: str) -> ConfigDict:
  """Return models at 32 px, 64 tokens of 4×4 pixels, 200 epochs by Table 4's recipe for B/16.

  Without RandAugment: it moves and covers images by pixels of 224, which leaves little of 32 px.
  """
  base = common.get_config()
  base.total_steps = 19_600
  base.batch_size = 512
  base.eval_batch_size = 250  # the unbiased estimator's own error is some .001 there
  base.eval_every = 980
  base.checkpoint_every = 980
  base.keep_checkpoints = 1
  base.mixup = 0.5
  base.model.update(image_size=32, patch_size=4, stochastic_depth=0.1)
  base.data.eval_recipe = 'vit-jax'  # neither resizes nor crops 32 px
  base.optimizer.warmup_steps = 980
  _learn(base, name)
  models = {f'blocks_{n}': _edited(base, num_blocks=n, hidden_dim=384) for n in (12, 8, 24, 32)}
  for width in (256, 512, 640):
    models[f'width_{width}'] = _edited(base, num_blocks=12, hidden_dim=width)
  other = next(key for key in _CLASSES if key != name)
  models[other] = _edited(base, num_blocks=12, hidden_dim=384)
  _learn(models[other], other)
  return _study(models)


def _learn(config: ConfigDict, name: str) -> None:
  config.data.name = name
  config.model.num_classes = _CLASSES[name]
