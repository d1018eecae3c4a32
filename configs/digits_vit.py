"""A small ViT learns the embedded handwritten digits on a laptop's CPU."""

from ml_collections import ConfigDict

from configs import common, digits

SIZES = {'patch_size': 4, 'num_blocks': 4, 'hidden_dim': 64, 'mlp_dim': 256, 'num_heads': 4}
"""A class token and the 16 tokens of 4×4 pixels of the Mixer in configs/digits.py."""


def get_config() -> ConfigDict:
  """Return a ViT of 205k parameters; 2,500 steps, about 111 epochs.

  Mixup, stochastic depth, rate and length were chosen on train[80%:], after training on the rest.
  """
  config = digits.get_config()
  config.total_steps = 2500
  config.batch_size = 64
  config.mixup = 0.2
  common.use_family(config, 'vit')
  config.model.update(SIZES)
  config.model.stochastic_depth = 0.1
  config.optimizer.learning_rate = 1e-3
  config.optimizer.schedule = 'cosine'
  return config
