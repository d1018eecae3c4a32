"""Typed configs and pieces of them, from config files with a few edits."""

from typing import Any

from configs import common
from mixer_jax.data.data_config import DataConfig
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training.optimizer import OptimizerConfig


def optimizer(**fields) -> OptimizerConfig:
  """Return the paper's pre-training optimizer, edited."""
  return OptimizerConfig(**{**common.get_config().optimizer, **fields})


def data(**fields) -> DataConfig:
  """Return the paper's input, edited."""
  return DataConfig(**{**common.get_config().data, **fields})


def run_config(config: Any = 'configs/digits.py', **changes) -> RunConfig:
  """Return the RunConfig of a config file, ConfigDict or dict, edited.

  Args:
    changes: by dotted name, as in `**{'data.data_dir': '/tmp'}`.
  """
  if isinstance(config, str):
    config = load_config(config)
  fields = config if isinstance(config, dict) else config.to_dict()
  return RunConfig.from_fields(fields).with_fields(changes)
