"""The experiment's config with what the command line changes in it; and the flags, of `flags`."""

import difflib
import fnmatch
import inspect
import pathlib
import runpy
import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from ml_collections import ConfigDict

from mixer_jax.commands.flags import CHECKPOINT, Parser, check_targets, write
from mixer_jax.errors import UserError

__all__ = [
  'CHECKPOINT',
  'Parser',
  'check_targets',
  'fields',
  'load_config',
  'numbers',
  'with_overrides',
  'write',
]

N = TypeVar('N', int, float)


def numbers(name: str, text: str, kind: type[N]) -> tuple[N, ...]:
  """A list in a flag or a field, as in 1,5,10; raises `UserError` if it is none."""
  try:
    return tuple(kind(part) for part in text.split(','))
  except (ValueError, AttributeError):
    whole = 'whole ' if kind is int else ''
    raise UserError(f'{name}={text}: {whole}numbers, as in 1,5,10') from None


def load_config(spec: str, overrides: list[str]) -> ConfigDict:
  """The config of `FILE` or `FILE:ARG`, with `--config.field=value` applied, locked.

  Raises:
    UserError: no such file, a fault in it, an unknown field or a value of another type.
  """
  file, _, arg = spec.partition(':')
  path = pathlib.Path(file).resolve()
  if not path.is_file():
    known = sorted(p.name for p in path.parent.glob('*.py') if p.stem != 'common')
    raise UserError(f'no config file {file}' + (f': there are {", ".join(known)}' if known else ''))
  # Experiments import each other as `configs.NAME`, from wherever they are started.
  here = [str(path.parent.parent), str(pathlib.Path.cwd())]
  sys.path[:0] = here
  try:
    module = runpy.run_path(str(path))
    get_config = module['get_config']
    needed = [p for p in inspect.signature(get_config).parameters.values() if p.default is p.empty]
    if needed and not arg:
      about = ' '.join((module.get('__doc__') or '').split())
      raise UserError(f'config {file} needs an argument, {file}:{needed[0].name.upper()}. {about}')
    config = get_config(arg) if arg else get_config()
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # whatever the file of an experiment raises
    text = ' '.join(str(error).split())
    raise UserError(f'config {spec}: {type(error).__name__}: {text}') from error
  finally:
    del sys.path[: len(here)]
  if not isinstance(config, ConfigDict):
    raise UserError(f'config {spec}: get_config() gives no ConfigDict')
  return with_overrides(config, overrides)


def with_overrides(config: ConfigDict, overrides: list[str]) -> ConfigDict:
  """The config with `--config.field=value` applied, locked."""
  for override in overrides:
    _override(config, override)
  return config.lock()


def _override(config: ConfigDict, flag: str) -> None:
  """Sets a field from `--config.a.b=value`, parsed by its type; `a.*.b` in all groups of a."""
  name, _, text = flag.removeprefix('--config.').partition('=')
  found = list(_find(config, name.split('.')))
  if not found:
    near = difflib.get_close_matches(name, fields(config), n=1, cutoff=0.5)
    hint = f': did you mean config.{near[0]}?' if near else ''
    raise UserError(f'the config has no field {name!r}{hint}')
  for node, last in found:
    if isinstance(node[last], ConfigDict):
      inside = ', '.join(node[last])
      raise UserError(f'config.{name} is a group of fields: set one of {inside}')
    node[last] = _parse(name, text, node[last])


def _find(node: ConfigDict, path: list[str]) -> Iterator[tuple[ConfigDict, str]]:
  """Each (group, name in it) at this path, whose parts may be patterns: 'tasks.*.batch_size'."""
  first, *rest = path
  for key in fnmatch.filter(node, first):
    if not rest:
      yield node, key
    elif isinstance(node[key], ConfigDict):
      yield from _find(node[key], rest)


def _parse(name: str, text: str, old: Any) -> Any:
  kind = type(old)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    return {int: int, float: float, str: str}[kind](text)
  except (KeyError, ValueError):
    raise UserError(f'config.{name} is a {kind.__name__} (now {old!r}), not {text!r}') from None


def fields(config: ConfigDict, prefix: str = '') -> dict[str, Any]:
  """Dotted name -> value of all fields."""
  flat = {}
  for key, value in config.items():
    name = f'{prefix}{key}'
    flat |= fields(value, f'{name}.') if isinstance(value, ConfigDict) else {name: value}
  return flat
