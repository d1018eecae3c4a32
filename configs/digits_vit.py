"""A small ViT learns the embedded handwritten digits on a laptop's CPU."""

from ml_collections import ConfigDict

from configs import common, digits

SIZES = {'patch_size': 4, 'num_blocks': 4, 'hidden_dim': 64, 'mlp_dim': 256, 'num_heads': 4}
"""A class token and 16 tokens of 4×4 pixels, as the Mixer of configs/digits.py."""


def get_config() -> ConfigDict:
  """Return a ViT of 205k parameters."""
  config = digits.get_config()
  config.total_steps = 1500
  config.batch_size = 64
  common.use_family(config, 'vit')
  config.model.update(SIZES)
  config.optimizer.learning_rate = 2e-3
  config.optimizer.schedule = 'cosine'
  return config
