"""Checks of a model's config that all families share."""

import dataclasses
import math

from mixer_jax.errors import UserError
from mixer_jax.models.inputs import INPUT_RANGES

_DTYPES = ('float32', 'bfloat16', 'float16')
_MAX_SIZE = 2**20
_MAX_BLOCKS = 2**12  # they are unrolled in the program
_TYPES = {bool: 'true or false', str: 'a text'}


def check(config) -> None:
  """Check the types of all fields, and the values of the fields that all families have.

  Integers must be positive, `head_bias` finite, and `family` the one of the config's class.

  Raises:
    UserError: naming the field.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if field.type is int and (type(value) is not int or value < 1):
      raise UserError(f'model.{field.name} must be a positive whole number, not {value!r}')
    if field.type is int and value > _MAX_SIZE:
      raise UserError(f'model.{field.name} must be at most {_MAX_SIZE:,}, is {value:,}')
    if field.type is float and (isinstance(value, bool) or not isinstance(value, int | float)):
      raise UserError(f'model.{field.name} must be a number, not {value!r}')
    if field.type in (bool, str) and type(value) is not field.type:
      raise UserError(f'model.{field.name} must be {_TYPES[field.type]}, not {value!r}')
    if field.name == 'family' and value != field.default:
      raise UserError(f'a {type(config).__name__} is of the family {field.default}, not {value!r}')
  if config.input_range not in INPUT_RANGES:
    known = ' or '.join(map(repr, INPUT_RANGES))
    raise UserError(f'model.input_range must be {known}, not {config.input_range!r}')
  if config.dtype not in _DTYPES:
    raise UserError(f'model.dtype must be one of {", ".join(_DTYPES)}, not {config.dtype!r}')
  if not math.isfinite(config.head_bias):
    raise UserError(f'model.head_bias must be finite, is {config.head_bias!r}')


def check_depth(config) -> None:
  """Raise `UserError` if a model has more blocks than a program can have."""
  if config.num_blocks > _MAX_BLOCKS:
    raise UserError(f'a model has at most {_MAX_BLOCKS:,} blocks, not {config.num_blocks:,}')
