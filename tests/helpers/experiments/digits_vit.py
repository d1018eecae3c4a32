"""A run of a ViT on `digits` with all that is random in it."""

from ml_collections import ConfigDict

from configs import common, digits


def get_config() -> ConfigDict:
  """Return the digits experiment with a ViT of two blocks, width 16."""
  config = digits.get_config()
  common.use_family(config, 'vit')
  config.model.update(
    num_blocks=2, hidden_dim=16, mlp_dim=32, num_heads=4, dropout=0.1, stochastic_depth=0.1
  )
  return config
