"""A small Mixer learns the embedded handwritten digits on a laptop's CPU."""

from ml_collections import ConfigDict

from configs import common


def get_config() -> ConfigDict:
  """Return a Mixer of 142k parameters, 16 tokens of 4×4 pixels; 1,200 steps, about 107 epochs."""
  config = common.get_config()
  config.total_steps = 1200
  config.batch_size = 128
  config.eval_batch_size = 360
  config.log_every = 25
  config.eval_every = 250
  config.checkpoint_every = 500

  config.model.update(
    dtype='float32',  # bfloat16 is slow on CPUs
    image_size=16,
    patch_size=4,
    num_blocks=4,
    hidden_dim=64,
    tokens_mlp_dim=32,
    channels_mlp_dim=256,
    num_classes=10,
  )

  config.data.name = 'digits'
  config.data.min_crop_area = 0.6
  config.data.flip = False  # a mirrored digit is no digit
  config.data.eval_recipe = 'vit-jax'  # enlarges 8×8 pixels as in training, crops nothing
  config.data.threads = 0  # reading 8×8 pixels takes less time than waking a thread

  config.fewshot.name = 'digits'
  config.fewshot.recipe = ''  # that of data.eval_recipe
  config.fewshot.eval_split = 'test'

  config.optimizer.learning_rate = 3e-3
  config.optimizer.warmup_steps = 100
  return config
