"""Flags of a command and the files that they name; imports nothing heavy."""

import argparse
import itertools
import os
import sys
from typing import NoReturn

from mixer_jax.errors import UserError
from mixer_jax.paths import is_remote, user_path

CHECKPOINT = (
  'a workdir, WORKDIR/best, one of its steps, an .npz or .safetensors file, or a published name '
  'such as imagenet1k/Mixer-B_16'
)


class Parser(argparse.ArgumentParser):
  """argparse with errors of one line."""

  def __init__(self, command: str, description: str):
    _, _, text = description.partition(': ')
    super().__init__(prog=f'mixer-jax {command}', description=text, allow_abbrev=False)

  def error(self, message: str) -> NoReturn:
    raise UserError(f'{message} (see {self.prog} --help)')

  def add_config(self, *, required: bool, example: str = 'configs/digits.py', note: str = ''):
    """Adds --config=FILE[:ARG], whose fields --config.field=value sets."""
    self.add_argument(
      '--config',
      required=required,
      metavar='FILE[:ARG]',
      help=f'experiment, such as {example}; --config.field=value sets a field{note}',
    )

  def add_reading(self):
    """Adds the recipe of images, and the arithmetic of the model that weights files do not hold."""
    from mixer_jax.data.recipes import RECIPES  # OpenCV, Pillow and SciPy

    self.add_argument('--recipe', choices=RECIPES, help="default: the checkpoint's")
    default = 'default: that of the checkpoint, if it is known'
    self.add_argument(
      '--gelu', choices=('tanh', 'erf'), default=None, help=f'erf is exact; {default}'
    )
    self.add_argument('--input-range', choices=('[-1, 1]', '[0, 1]'), help=f'of pixels; {default}')

  def parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags, and the `--config.field=value` for `load_config`."""
    args, rest = self._parse(argv)
    for flag in rest:
      if not flag.startswith('--config.') or '=' not in flag:
        hint = ': write --config.field=value' if flag.startswith('--config.') else ''
        self.error(f'unknown argument {flag}{hint}')
    return args, rest

  def parse_flags(self, argv: list[str]) -> argparse.Namespace:
    """Return the flags of a command without a config."""
    args, rest = self._parse(argv)
    if rest:
      self.error(f'unknown argument {rest[0]}')
    return args

  def _parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    args, rest = self.parse_known_args(argv)
    for name, value in vars(args).items():
      if value == '':  # an unset shell variable, not the current folder
        self.error(f'--{name.replace("_", "-")} is empty')
    return args, rest


def check_targets(files: dict[str, str | None]) -> None:
  """Checks that the files of these flags can be written; `-` is stdout.

  To be called before anything is computed.

  Raises:
    UserError: one is a folder, has no folder, may not be written, or two are the same.
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
    if not is_remote(path) and not os.access(place, os.W_OK):
      raise UserError(f'--{flag}={file} may not be written: name another file')
  for flag, other in itertools.combinations(named, 2):
    if named[flag] == named[other]:
      raise UserError(f'--{flag} and --{other} cannot both go to one place: name another file')


def write(file: str | None, text: str) -> None:
  """Writes text to the file of a flag; `-` is stdout, None writes nothing."""
  if file == '-':
    sys.stdout.write(text)
  elif file:
    try:
      user_path(file).write_text(text)
    except OSError as error:
      raise UserError(f'{file} was not written: {error.strerror or error}') from error
