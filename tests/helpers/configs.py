"""Typed pieces of a config, from the fields of configs/common.py with a few edits."""

from configs import common
from mixer_jax.data.pipeline import DataConfig
from mixer_jax.training.optimizer import OptimizerConfig


def optimizer(**fields) -> OptimizerConfig:
  """The paper's pre-training optimizer, edited."""
  return OptimizerConfig(**{**common.get_config().optimizer, **fields})


def data(**fields) -> DataConfig:
  """The paper's input, edited."""
  return DataConfig(**{**common.get_config().data, **fields})
