"""The flags of a command, and the files that they name; imports nothing heavy."""

import argparse
import importlib
import itertools
import json
import os
import shutil
import sys
from collections.abc import Mapping
from typing import Any, NoReturn, TypedDict

from mixer_jax import storage
from mixer_jax.errors import UserError, one_line, printable_lines
from mixer_jax.paths import is_remote, user_path

CHECKPOINT = (
  'a workdir (its best state if the run keeps that, else its newest), WORKDIR/best, '
  'WORKDIR/newest, WORKDIR/STEP, an .npz or .safetensors file, or a published name such as '
  'imagenet1k/Mixer-B_16'
)


class Parser(argparse.ArgumentParser):
  """argparse with errors of one line."""

  def __init__(self, command: str, description: str):
    _, _, text = description.partition(': ')
    super().__init__(prog=f'mixer-jax {command}', description=text, allow_abbrev=False)
    self.add_argument(
      '--import',
      dest='modules',
      action='append',
      default=[],
      metavar='MODULE',
      help='import this module first, such as one that registers a model family; may be repeated',
    )
    self._lists_fields = False

  def error(self, message: str) -> NoReturn:
    message = message.replace('ignored explicit argument', 'takes no value, not')
    raise UserError(f'{message} (see {self.prog} --help)')

  def format_help(self) -> str:
    """Return the text of --help."""
    if not self._lists_fields:
      return super().format_help()
    from mixer_jax.runs import config_comments

    width = shutil.get_terminal_size().columns - 2
    return f'{super().format_help()}\n{config_comments.help_text(width)}'

  def add_config(
    self,
    *,
    required: bool,
    example: str = 'configs/digits.py',
    note: str = '',
    lists_fields: bool = False,
  ):
    """Add the flag --config=FILE[:ARG]; its fields are set by --config.field=value.

    Args:
      lists_fields: --help lists the fields of an experiment.
    """
    self._lists_fields = lists_fields
    self.add_argument(
      '--config',
      required=required,
      metavar='FILE[:ARG]',
      help=f'experiment, such as {example}; --config.field=value sets a field{note}',
    )

  def add_reading(self, recipe: str = "the checkpoint's"):
    """Add flags for the preparation of images, and for arithmetic that no weights file contains.

    Args:
      recipe: whose recipe is the default.
    """
    from mixer_jax.data.recipes import RECIPES  # OpenCV, Pillow and SciPy

    self.add_argument('--recipe', choices=RECIPES, help=f'default: {recipe}')
    known = "default: the checkpoint's, as far as known"
    self.add_argument('--gelu', choices=('tanh', 'erf'), help=f'erf is exact; {known}')
    self.add_argument('--input-range', choices=('[-1, 1]', '[0, 1]'), help=f'of pixels; {known}')
    self.add_heads()

  def add_heads(self):
    """Add the flag --num-heads, for files that do not store it."""
    self.add_argument(
      '--num-heads',
      type=int,
      metavar='N',
      help="attention heads of a ViT whose file does not store them (timm's layout)",
    )

  def add_evaluated(
    self,
    *,
    example: str = 'configs/digits.py',
    note: str = '',
    recipe: str = "the checkpoint's",
  ):
    """Add flags for a checkpoint, and for the data and reading it is evaluated with."""
    self.add_argument('--checkpoint', required=True, help=CHECKPOINT)
    note += "; default: that of the checkpoint's run"
    self.add_config(required=False, example=example, note=note)
    self.add_reading(recipe)

  def add_json(self):
    """Add the flag --json; see `report`."""
    self.add_argument('--json', metavar='FILE', help='also write the figures there; - is stdout')

  def parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags, and the `--config.field=value` that are left for `load_config`."""
    args, rest = self._parse(argv)
    for flag in rest:
      if not flag.startswith('--config.') or '=' not in flag:
        hint = ': write --config.field=value' if flag.startswith('--config.') else ''
        self.error(f'unknown argument {flag}{hint}')
    return args, rest

  def parse_flags(self, argv: list[str]) -> argparse.Namespace:
    """Return the flags of a command that takes no config."""
    args, rest = self._parse(argv)
    if rest:
      self.error(f'unknown argument {rest[0]}')
    return args

  def _parse(self, argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    args, rest = self.parse_known_args(argv)
    for name, value in vars(args).items():
      if value == '':  # an unset variable of a shell: not the current folder
        self.error(f'--{name.replace("_", "-")} is empty')
    for module in vars(args).pop('modules'):
      _import(module)
    return args, rest


def _import(module: str) -> None:
  """Import a module that is installed, on PYTHONPATH or in the current folder."""
  if (here := os.getcwd()) not in sys.path:
    sys.path.append(here)  # for good: a family that it registers is imported later
  try:
    importlib.import_module(module)
  except UserError:
    raise
  except Exception as error:  # whatever a module raises
    raise UserError(f'--import={module}: {type(error).__name__}: {one_line(error)}') from error


class Reading(TypedDict):
  """The flags of `Parser.add_reading`."""

  recipe: str | None
  gelu: str | None
  input_range: str | None
  num_heads: int | None


def reading(args: argparse.Namespace) -> Reading:
  """Return the flags of `Parser.add_reading` by name."""
  return Reading(
    recipe=args.recipe, gelu=args.gelu, input_range=args.input_range, num_heads=args.num_heads
  )


def check_targets(files: dict[str, str | None]) -> None:
  """Check, before anything is computed, that the files of these flags can be written.

  Args:
    files: flag -> file; `-` is stdout.

  Raises:
    UserError: one is a folder, its folder does not exist or is not writable, or two are the same.
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
      raise UserError(f'--{flag}={file} is not writable: name another file')
  for flag, other in itertools.combinations(named, 2):
    if named[flag] == named[other]:
      raise UserError(f'--{flag} and --{other} cannot both go to one place: name another file')


def report(text: str, figures: Mapping[str, Any], json_file: str | None) -> None:
  """Print `text`, and write `figures` to the file of --json; with `-`, `text` goes to stderr."""
  show(text, json_file)
  write(json_file, json.dumps(figures) + '\n')


def show(text: object, *files: str | None) -> None:
  """Print text that may have names from files: control characters are escaped.

  Args:
    files: of flags; if one is `-`, stdout is for it, and `text` goes to stderr.
  """
  print(printable_lines(str(text)), file=sys.stderr if '-' in files else sys.stdout, flush=True)


def write(file: str | None, text: str) -> None:
  """Write `text` as UTF-8 to the file of a flag; `-` is stdout, None is nowhere."""
  data = text.encode(errors='backslashreplace')
  if file == '-':
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.flush()
  elif file:
    # In place: a device or a link, such as /dev/stdout, is not replaced by a file.
    try:
      storage.write_retried(file, lambda: user_path(file).write_bytes(data))
    except OSError as error:
      raise UserError(f'{file} was not written: {error.strerror or error}') from error
