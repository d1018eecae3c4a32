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

  Integers must be positive, or at least what their metadata says, `head_bias` finite, and
  `family` the one of the config's class.

  Raises:
    UserError: naming the field.
  """
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    least = field.metadata.get('at_least', 1)
    if field.type is int and (type(value) is not int or value < least):
      kind = 'a positive whole number' if least else 'a whole number, 0 or more'
      raise UserError(f'model.{field.name} must be {kind}, not {value!r}')
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


def check_patches(config) -> None:
  """Raise `UserError` unless the patches fill the image."""
  if config.image_size % config.patch_size:
    low = config.image_size // config.patch_size * config.patch_size
    near = ' or '.join(str(size) for size in (low, low + config.patch_size) if size)
    raise UserError(
      f'model.image_size {config.image_size} is not a multiple of model.patch_size '
      f'{config.patch_size}: take {near}'
    )


def check_choice(config, name: str, choices: tuple[str, ...]) -> None:
  """Raise `UserError` unless the field has one of these values."""
  if getattr(config, name) not in choices:
    listed = ' or '.join(map(repr, choices)).replace(' or ', ', ', len(choices) - 2)
    raise UserError(f'model.{name} must be {listed}, not {getattr(config, name)!r}')


def check_rates(config, names: tuple[str, ...]) -> None:
  """Raise `UserError` unless these fields are in [0, 1)."""
  for name in names:
    if not 0 <= getattr(config, name) < 1:
      raise UserError(f'model.{name} must be in [0, 1), not {getattr(config, name)!r}')
