"""Eight blocks on the embedded handwritten digits: a model whose layers can be identified.

Train it with two values of --config.seed, and give both workdirs to `mixer-jax identify`.
"""

from ml_collections import ConfigDict

from configs import digits


def get_config() -> ConfigDict:
  """Return 64 tokens of 2×2 pixels, 1,000 steps: a few minutes on two cores.

  With the 16 tokens of configs/digits.py a few blocks suffice, and the others stay alike.
  """
  config = digits.get_config()
  config.total_steps = 1000
  config.batch_size = 64
  config.log_every = 100
  config.model.update(
    patch_size=2, num_blocks=8, hidden_dim=64, tokens_mlp_dim=64, channels_mlp_dim=128
  )
  return config
