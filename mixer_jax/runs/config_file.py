"""Config files: `FILE[:ARG]` with the fields that the command line sets -> plain nested dicts.

ConfigDict is known to config files and to this module only.
"""

import contextlib
import difflib
import fnmatch
import inspect
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mixer_jax.errors import UserError, one_line
from mixer_jax.runs.fields import checked, flatten

_imported: dict[str, pathlib.Path] = {}
"""Module -> folder of the config file that imported it, and that it lies in."""


def load_config(spec: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
  """Return the config of `FILE` or `FILE:ARG` as a nested dict, references resolved.

  Args:
    overrides: `--config.field=value`, applied in their order; `a.*.b` sets `b` in all groups
      of `a`.

  Raises:
    UserError: no such file, an error in it, an unknown field or a value of another type.
  """
  file, _, arg = spec.partition(':')
  path = pathlib.Path(file).resolve()
  if not path.is_file():
    known = sorted(p.name for p in path.parent.glob('*.py') if p.stem != 'common')
    raise UserError(f'no config file {file}' + (f': there are {", ".join(known)}' if known else ''))
  try:
    with _importable(path.parent):
      module = runpy.run_path(str(path))
      get_config = module['get_config']
      parameters = inspect.signature(get_config).parameters.values()
      needed = [p for p in parameters if p.default is p.empty]
      if needed and not arg:
        doc = ' '.join((module.get('__doc__') or '').split())
        raise UserError(f'config {file} needs an argument, {file}:{needed[0].name.upper()}. {doc}')
      config = get_config(arg) if arg else get_config()
  except UserError:
    raise
  except (Exception, SystemExit) as error:  # whatever a config file raises
    text = ' '.join(str(error).split())
    raise UserError(f'config {spec}: {type(error).__name__}: {text}') from error
  if not isinstance(config, ConfigDict):
    raise UserError(f'config {spec}: get_config() does not return a ConfigDict')
  return _with_overrides(config, overrides)


@contextlib.contextmanager
def _importable(folder: pathlib.Path) -> Iterator[None]:
  """Let a config file import those of its folder as `configs.NAME`, and modules beside it by name.

  Modules of the same name beside another config file are forgotten.
  """
  for name, place in list(_imported.items()):
    if place != folder:
      del _imported[name]
      sys.modules.pop(name, None)
  search_path = [str(folder), str(folder.parent), str(pathlib.Path.cwd())]
  before = set(sys.modules)
  sys.path[:0] = search_path
  try:
    yield
  finally:
    for place in search_path:
      sys.path.remove(place)
    for name in set(sys.modules) - before:
      file = getattr(sys.modules[name], '__file__', None)
      if file and pathlib.Path(file).is_relative_to(folder):
        _imported[name] = folder


def with_overrides(fields: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
  """Return a copy of a plain config, such as a stored one, with `--config.field=value` applied.

  Raises:
    UserError: an unknown field or a value of another type.
  """
  return _with_overrides(ConfigDict(fields), overrides)


def parse_values(fields: Mapping[str, Any], name: str, texts: Sequence[str]) -> list[Any]:
  """Return values of one field as `--config.NAME=TEXT` would set them.

  Args:
    fields: of a plain config that has the field.
    name: dotted.

  Raises:
    UserError: an unknown field or a value of another type.
  """
  settings = (with_overrides(fields, [f'--config.{name}={text}']) for text in texts)
  return [flatten(changed).get(name) for changed in settings]


def _with_overrides(config: ConfigDict, overrides: Sequence[str]) -> dict[str, Any]:
  config = ConfigDict(config)  # a copy in which no group is frozen
  _make_plain(config)
  for override in overrides:
    _override(config, override)
  return checked('config', config.to_dict())


def _make_plain(node: ConfigDict) -> None:
  """Turn paths into strings, and NumPy's numbers into Python's, so that flags can set them."""
  for name, value in node.items():
    if isinstance(value, ConfigDict):
      _make_plain(value)
    elif isinstance(value, os.PathLike | np.generic):
      with node.ignore_type():
        node[name] = checked(f'config.{name}', value)


def _override(config: ConfigDict, flag: str) -> None:
  """Sets the fields that `--config.a.b=value` names, parsed by their type."""
  name, _, text = flag.removeprefix('--config.').partition('=')
  found = list(_find(config, name.split('.')))
  if not found:
    near = difflib.get_close_matches(name, flatten(config.to_dict()), n=1, cutoff=0.5)
    hint = f': did you mean config.{near[0]}?' if near else ''
    raise UserError(f'the config has no field {name!r}{hint}')
  for node, last in found:
    if isinstance(node[last], ConfigDict):
      inside = ', '.join(node[last])
      raise UserError(f'config.{name} is a group of fields: set one of {inside}')
    value = _parse(name, text, node[last])
    try:
      node[last] = value
    except TypeError as error:
      raise UserError(f'config.{name}: {one_line(error)}') from error


def _find(node: ConfigDict, path: list[str]) -> Iterator[tuple[ConfigDict, str]]:
  """Yield each (group, name in it) at this path; its parts may be patterns: 'tasks.*.seed'."""
  first, *rest = path
  for key in fnmatch.filter(node, first):
    if not rest:
      yield node, key
    elif isinstance(node[key], ConfigDict):
      yield from _find(node[key], rest)


_TYPES = {
  int: 'a whole number',
  float: 'a number',
  bool: 'true or false',
  str: 'a string',
  tuple: 'a list, as in 1,5,10',
  list: 'a list, as in 1,5,10',
}


def _parse(name: str, text: str, old: Any) -> Any:
  kind = type(old)
  try:
    if kind is bool:
      return {'true': True, '1': True, 'false': False, '0': False}[text.lower()]
    if kind in (tuple, list):
      return kind(map(_number_or_name, text.split(','))) if text else kind()
    return {int: int, float: float, str: str}[kind](text)
  except (KeyError, ValueError):
    wanted = _TYPES.get(kind, f'of type {kind.__name__}')
    raise UserError(f'config.{name} is {wanted} (now {old!r}), not {text!r}') from None


def _number_or_name(text: str) -> int | float | str:
  for kind in (int, float):
    try:
      return kind(text)
    except ValueError:
      continue
  return text
