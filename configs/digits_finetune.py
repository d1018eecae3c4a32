"""Fine-tuning of configs/digits.py at twice the resolution: --config.init_from=WORKDIR."""

from ml_collections import ConfigDict

from configs import common, digits


def get_config() -> ConfigDict:
  """Return 32×32 pixels, 64 tokens: the token MLPs grow block-diagonally (Appendix C)."""
  config = common.finetune(digits.get_config())
  config.total_steps = 200
  config.batch_size = 128
  config.log_every = 10
  config.eval_every = 50
  config.checkpoint_every = 100
  config.optimizer.learning_rate = 0.06
  config.optimizer.warmup_steps = 50
  config.data.min_crop_area = 0.8

  common.keep_architecture(config)
  config.model.image_size = 32
  return config
