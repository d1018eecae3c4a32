"""A run of a ResNet on `digits`."""

from ml_collections import ConfigDict

from configs import common, digits


def get_config() -> ConfigDict:
  """Return the digits experiment with a ResNet of two units, an eighth as wide as BiT's."""
  config = digits.get_config()
  common.use_family(config, 'resnet')
  config.model.update(stages='1,1', width=0.125, stem='cifar', groups=4)
  return config
