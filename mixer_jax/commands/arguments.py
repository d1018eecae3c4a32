"""Flags of a command, and the experiment's config with what the command line changes in it."""

import argparse
import difflib
import fnmatch
import inspect
import itertools
import os
import pathlib
import runpy
import sys
from collections.abc import Iterator
from typing import Any, NoReturn, TypeVar

from ml_collections import ConfigDict

from mixer_jax.data.recipes import RECIPES
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path

N = TypeVar('N', int, float)

CHECKPOINT = (
  'a workdir, WORKDIR/best, one of its steps, an .npz or .safetensors file, or a published name '
  'such as imagenet1k/Mixer-B_16'
)


class Parser(argparse.ArgumentParser):
  """argparse, whose complaint is one line."""

  def __init__(self, command: str, description: str):
    _, _, text = description.partition(': ')
    super().__init__(prog=f'mixer-jax {command}', description=text, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message} (see {self.prog} --help)')

  def add_config(self, *, required: bool, example: str = 'configs/digits.py', note: str = ''):
    """The flag --config=FILE[:ARG]; its fields come as --config.field=value."""
    self.add_argument(
      '--config',
      required=required,
      metavar='FILE[:ARG]',
      help=f'experiment, such as {example}; --config.field=value sets a field{note}',
    )

  def add_reading(self):
    """How images are made ready and what of the model's arithmetic no weights file tells."""
    self.add_argument('--recipe', choices=RECIPES, help="default: the checkpoint's")
    told = 'default: as far as the checkpoint tells'
    self.add_argument('--gelu', choices=('tanh', 'erf'), default=None, help=f'erf is exact; {told}')
    self.add_argument('--input-range', choices=('[-1, 1]', '[0, 1]'), help=f'of pixels; {told}')

  def parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Flags, and the `--config.field=value` that are left for `load_config`."""
    args, rest = self._parse(argv)
    for flag in rest:
      if not flag.startswith('--config.') or '=' not in flag:
        hint = ': write --config.field=value' if flag.startswith('--config.') else ''
        self.error(f'unknown argument {flag}{hint}')
    return args, rest

  def parse_flags(self, argv: list[str]) -> argparse.Namespace:
    """Flags of a command that takes no config."""
    args, rest = self._parse(argv)
    if rest:
      self.error(f'unknown argument {rest[0]}')
    return args

  def _parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    args, rest = self.parse_known_args(argv)
    for name, value in vars(args).items():
      if value == '':  # an unset variable of a shell: not the current folder
        self.error(f'--{name.replace("_", "-")} is empty')
    return args, rest


def check_targets(files: dict[str, str | None]) -> None:
  """Before anything is computed: can the files of these flags be written? `-` is stdout.

  Raises:
    UserError: one is a folder, there is no folder for it, it may not be written, or two
      are the same.
  """
  named = {flag: file for flag, file in files.items() if file}
  for flag, file in named.items():
    path = user_path(file)
    if file == '-':
      continue
    if path.is_dir():
      raise UserError(f'--{flag}={file} is a folder: name a file in it')
    if not path.parent.is_dir():
      raise UserError(f'no folder for --{flag}={file}: make it first')
    place = path if path.exists() else path.parent
    if '://' not in str(path) and not os.access(place, os.W_OK):
      raise UserError(f'--{flag}={file} may not be written: name another file')
  for flag, other in itertools.combinations(named, 2):
    if named[flag] == named[other]:
      raise UserError(f'--{flag} and --{other} cannot both go to one place: name another for one')


def write(file: str | None, text: str) -> None:
  """Writes what a flag has asked for; `-` is stdout, None nowhere."""
  if file == '-':
    sys.stdout.write(text)
  elif file:
    try:
      user_path(file).write_text(text)
    except OSError as error:
      raise UserError(f'{file} was not written: {error.strerror or error}') from error


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
