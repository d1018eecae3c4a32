"""Pruning of a trained Mixer or ViT, block by block: `configs/prune.py:SCALE`.

SCALE is digits, which takes minutes on a laptop's CPU, or imagenet2012. For `mixer-jax prune`,
which takes the model from --checkpoint.
"""

from ml_collections import ConfigDict

from configs import common, digits
from mixer_jax import UserError


def get_config(arg: str) -> ConfigDict:
  """Return the settings of pruning, and the experiment that trains pruned models on."""
  scales = {'digits': _digits, 'imagenet2012': _imagenet}
  if arg not in scales:
    raise UserError(f'configs/prune.py:{arg}: there are {" and ".join(scales)}')
  return scales[arg]()


def _study(recovery: ConfigDict) -> ConfigDict:
  study = ConfigDict()
  study.pruning = ConfigDict()  # fields of mixer_jax.studies.pruning_plan.PruningConfig
  # Scores that choose the blocks; the first four need images (analysis/block_scores.py).
  study.pruning.scores = common.values(
    'block_cka', 'output_cka', 'cosine', 'leave_one_out', 'random', 'first', 'last'
  )
  # k blocks of one scoring, or one after another
  study.pruning.ways = common.values('at_once', 'one_by_one')
  # Numbers of blocks; 0: none, which shows the effect of recovery alone.
  study.pruning.removed = common.values(0, 1, 2, 3, 4)
  study.pruning.random_seeds = 5  # orders of random
  study.pruning.score_split = 'train'  # of recovery.data; its images score the blocks
  study.pruning.recovery_seeds = 1  # recovery runs per pruned model; 0: none
  study.pruning.latency_batch = 64  # images of a forward pass that is timed, on one device
  study.pruning.latency_rounds = 100  # times that each depth is timed, in turn; the median counts

  common.keep_architecture(recovery)
  del recovery.model['image_size'], recovery.model['num_classes']  # the checkpoint's
  recovery.keep_checkpoints = 1
  study.recovery = recovery  # an experiment, with the fields of configs/common.py
  return study


def _digits() -> ConfigDict:
  """Return recovery of 150 steps, about 13 epochs, at a tenth of the learning rate of training."""
  config = digits.get_config()
  config.total_steps = 150
  config.eval_every = 0
  config.checkpoint_every = 0
  config.optimizer.learning_rate = 3e-4
  config.optimizer.warmup_steps = 15
  return _study(config)


def _imagenet() -> ConfigDict:
  """Return the paper's fine-tuning at its lowest rate, 5,000 steps, about two epochs."""
  config = common.finetune(common.get_config())
  config.total_steps = 5000
  config.eval_batch_size = 512
  config.optimizer.learning_rate = 0.003
  config.data.name = 'imagenet2012'
  config.data.eval_split = 'validation'
  study = _study(config)
  study.pruning.score_split = 'train[:1%]'
  return study
