"""Fields of the configs of studies, checked and converted."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from mixer_jax.errors import UserError
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies.study import named

C = TypeVar('C')

_MAX_SEEDS = 1000


def typed(cls: type[C], config: C | Mapping[str, Any]) -> C:
  """The config of a study as its dataclass, which has `from_fields`."""
  return config if isinstance(config, cls) else cls.from_fields(config)  # pyright: ignore


def check_names(fields: Mapping[str, Any], names: Sequence[str], groups: Sequence[str], file: str):
  """Raises `UserError` unless a config has these fields, and those of `groups` hold others.

  Args:
    file: a config that has them.
  """
  if set(fields) != set(names) or not all(isinstance(fields[g], Mapping) for g in groups):
    raise UserError(f'the config has the fields {", ".join(names)}: begin with {file}')


def seeds(value: Any) -> int:
  """Number of seeds."""
  if type(value) is not int or not 1 <= value <= _MAX_SEEDS:
    raise UserError(f'config.seeds must be a whole number in 1..{_MAX_SEEDS}, is {value!r}')
  return value


def experiments(group: str, fields: Mapping[str, Any]) -> dict[str, RunConfig]:
  """Name -> experiment, sorted by name.

  Args:
    group: name of the fields in the config.
  """
  if not fields:
    raise UserError(f'config.{group} is empty: it holds an experiment each')
  found = {}
  for name, own in sorted(fields.items()):
    with named(f'{group}.{name}'):
      found[name] = own if isinstance(own, RunConfig) else RunConfig.from_fields(own)
  return found
