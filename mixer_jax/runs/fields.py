"""Fields of a config as plain values: dotted names, lists in one string, typed groups."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, TypeVar

import numpy as np

from mixer_jax.errors import UserError, one_line

N = TypeVar('N', int, float)
T = TypeVar('T')


_MAX_DEPTH = 10  # of groups and lists in each other
_MAX_WHOLE = 2**63
_MAX_NUMBER = 1e38  # float32 on the device


def checked(name: str, value: Any, depth: int = 0) -> Any:
  """Return the value of a field as Python's own type: dict, list, tuple, str, int, float, bool.

  Paths become strings, and NumPy's numbers those of Python.

  Args:
    name: of the field, for the message.

  Raises:
    UserError: a value of another type, a huge number, or groups without an end.
  """
  if isinstance(value, Mapping | list | tuple) and depth > _MAX_DEPTH:
    raise UserError(f'{name:.80} is nested too deeply')
  if isinstance(value, Mapping):
    return {key: checked(f'{name}.{key}', item, depth + 1) for key, item in value.items()}
  if isinstance(value, list | tuple):
    items = [checked(name, item, depth + 1) for item in value]
    return tuple(items) if isinstance(value, tuple) else items
  if isinstance(value, os.PathLike):
    value = os.fspath(value)
  if isinstance(value, np.generic):
    value = value.item()
  if value is None:
    raise UserError(f'{name} is None: set it, as an empty text or list if it has none')
  if not isinstance(value, str | int | float):
    raise UserError(f'{name} is of type {type(value).__name__}: fields are text, numbers and lists')
  if isinstance(value, int) and not -_MAX_WHOLE <= value < _MAX_WHOLE:
    raise UserError(f'{name} is too large: whole numbers are below 2^63')
  if isinstance(value, float) and _MAX_NUMBER < abs(value) < math.inf:
    raise UserError(f'{name} is too large: numbers are below {_MAX_NUMBER:g}')
  if isinstance(value, str) and '\0' in value:
    raise UserError(f'{name} has a NUL character: {value!r:.80}')
  return value


def flatten(fields: Mapping[str, Any], prefix: str = '') -> dict[str, Any]:
  """Return dotted name -> value of all fields of nested groups; empty groups have none.

  Raises:
    UserError: groups without an end.
  """
  flat = {}
  if prefix.count('.') > _MAX_DEPTH:
    raise UserError(f'the config is nested too deeply at {prefix:.80}')
  for key, value in fields.items():
    name = f'{prefix}{key}'
    flat |= flatten(value, f'{name}.') if isinstance(value, Mapping) else {name: value}
  return flat


def parse_numbers(name: str, value: Any, kind: type[N]) -> tuple[N, ...]:
  """Return the numbers of a flag or field: '1,5,10', (1, 5, 10) or a single number.

  Args:
    name: of the flag or field, for the message.
    kind: int or float.

  Raises:
    UserError: `value` is no such list, or is empty.
  """
  parts = _parts(value)
  try:
    numbers = tuple(kind(part) for part in parts)
    if not parts or any(isinstance(part, bool) for part in parts):
      raise ValueError
    if kind is int and any(isinstance(part, float) and part != int(part) for part in parts):
      raise ValueError
  except (ValueError, TypeError, OverflowError):
    whole = 'whole ' if kind is int else ''
    raise UserError(f'{name}={list_text(value)}: {whole}numbers, as in 1,5,10') from None
  return numbers


def parse_names(name: str, value: Any) -> tuple[str, ...]:
  """Return the names of a flag or field: 'linear,rbf' or ('linear', 'rbf').

  Raises:
    UserError: `value` is no such list, or is empty.
  """
  names = _parts(value)
  if not names or not all(isinstance(part, str) and part for part in names):
    raise UserError(f'{name}={list_text(value)}: names, as in a,b,c')
  return tuple(names)


def _parts(value: Any) -> tuple[Any, ...]:
  if isinstance(value, str):
    return tuple(part.strip() for part in value.split(',')) if value else ()
  return tuple(value) if isinstance(value, list | tuple) else (value,)


def list_text(value: Any) -> str:
  """Return a list as one string, '1,5,10', the form in which `config.json` holds it."""
  return ','.join(map(str, _parts(value)))


def plain(value: Any, depth: int = 0) -> Any:
  """Return nested groups as dicts that JSON can hold; lists as one string each.

  Raises:
    UserError: groups without an end.
  """
  if depth > _MAX_DEPTH:
    raise UserError('the config is nested too deeply')
  if isinstance(value, Mapping):
    return {name: plain(item, depth + 1) for name, item in value.items()}
  return list_text(value) if isinstance(value, list | tuple) else value


def build(cls: type[T], fields: Mapping[str, Any], group: str) -> T:
  """Return the dataclass `cls(**fields)`.

  Args:
    group: name of the fields in the config, for messages.

  Raises:
    UserError: a field is unknown, missing or has a wrong value.
  """
  known = dataclasses.fields(cls)  # pyright: ignore[reportArgumentType]
  if not hasattr(fields, 'keys'):
    raise UserError(f'config.{group} is a group of fields, not {fields!r}')
  needed = {
    field.name
    for field in known
    if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
  }
  unknown = [name for name in fields if name not in {field.name for field in known}]
  missing = sorted(name for name in needed if name not in fields)
  if unknown:
    raise UserError(f'config.{group} has unknown fields: {", ".join(unknown)}')
  if missing:
    hint = ', or take them from a checkpoint with --config.init_from' if group == 'model' else ''
    raise UserError(f'config.{group} lacks {", ".join(missing)}: set them{hint}')
  for field in known:
    value, wanted = fields.get(field.name), {str: 'a string', bool: 'true or false'}
    if field.name in fields and field.type in wanted and type(value) is not field.type:
      raise UserError(f'config.{group}.{field.name} must be {wanted[field.type]}, is {value!r}')
  try:
    return cls(**fields)
  except TypeError as error:  # a value of a type that cannot be compared
    raise UserError(f'config.{group}: {one_line(error)}') from error
