"""The fields of a config: that all are there, and no others, and typed pieces made of them."""

import dataclasses
import math
from typing import Any

from ml_collections import ConfigDict

from mixer_jax.errors import UserError

_LEAST = {
  'total_steps': 1,
  'batch_size': 1,
  'eval_batch_size': 0,
  'accumulate': 1,
  'log_every': 1,
  'eval_every': 0,
  'checkpoint_every': 0,
  'keep_checkpoints': 1,
  'seed': 0,
}
_MOST = 2**31 - 1  # steps and seeds are int32 on the device
_OTHERS = (
  'total_epochs',
  'keep_best',
  'early_stopping',
  'fewshot',
  'loss',
  'mixup',
  'mixup_per',
  'init_from',
  'init_head',
  'init_blocks',
  'tensorboard',
  'model',
  'data',
  'optimizer',
  'mesh',
  'processes',
)


def build(cls, fields: Any, group: str):
  """`cls(**fields)`, where a superfluous or missing field is the user's to mend."""
  known = dataclasses.fields(cls)
  needed = {field.name for field in known if field.default is dataclasses.MISSING}
  strange = [name for name in fields if name not in {field.name for field in known}]
  missing = sorted(name for name in needed if name not in fields)
  if strange:
    raise UserError(f'config.{group} has fields that nobody reads: {", ".join(strange)}')
  if missing:
    hint = ', or take them from a checkpoint with --config.init_from' if group == 'model' else ''
    raise UserError(f'config.{group} lacks {", ".join(missing)}: set them{hint}')
  try:
    return cls(**fields)
  except TypeError as error:  # a value of a type that cannot be compared
    raise UserError(f'config.{group}: {" ".join(str(error).split())}') from error


def check_fields(config: ConfigDict) -> None:
  """Raises `UserError` unless the config has the fields of configs/common.py, and sane numbers."""
  names = (*_LEAST, *_OTHERS)
  for name in names:
    if name not in config:
      raise UserError(f'the config has no field {name!r}: begin with configs/common.py')
  strange = sorted(set(config) - set(names))
  if strange:
    raise UserError(f'the config has fields that nobody reads: {", ".join(strange)}')
  for name, least in _LEAST.items():
    if type(config[name]) is not int or not least <= config[name] <= _MOST:
      raise UserError(
        f'config.{name} must be a whole number, at least {least} and below 2^31, '
        f'is {config[name]!r}'
      )
  epochs = config.total_epochs
  if isinstance(epochs, bool) or not isinstance(epochs, int | float) or not 0 <= epochs < math.inf:
    raise UserError(f'config.total_epochs must be 0 or more, is {epochs!r}')
  if type(config.keep_best) is not bool:
    raise UserError(f'config.keep_best must be true or false, is {config.keep_best!r}')
  if config.init_head not in ('zero', 'keep'):
    raise UserError(f"config.init_head must be 'zero' or 'keep', not {config.init_head!r}")
  if not config.init_from and (config.init_head == 'keep' or config.init_blocks):
    raise UserError('config.init_head and config.init_blocks are of a checkpoint: set init_from')


def total_steps(config: ConfigDict, examples: int) -> int:
  """Updates of a run whose training split has so many examples.

  Raises:
    UserError: too many.
  """
  if not config.total_epochs:
    return config.total_steps
  steps = max(round(config.total_epochs * examples / config.batch_size), 1)
  if steps > _MOST:
    raise UserError(f'config.total_epochs makes {steps:,} steps: they must be below 2^31')
  return steps
