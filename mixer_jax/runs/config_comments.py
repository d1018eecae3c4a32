"""Fields of configs/common.py with their values and comments, read from its text.

The file is not imported, so that `--help` waits for nothing heavy.
"""

import ast
import io
import textwrap
import tokenize
from typing import NamedTuple

from mixer_jax.paths import experiments_folder

_FILE = experiments_folder() / 'configs' / 'common.py'
_COLUMN = 34  # of the comments


class Field(NamedTuple):
  """One field, or a group of fields.

  Attributes:
    name: dotted, without `config.`.
    value: as on the command line; None of a group.
    comment: its unit and meaning.
  """

  name: str
  value: str | None
  comment: str


def help_text(width: int) -> str:
  """Return all fields in lines of at most `width` characters; '' where the file is not there."""
  if not _FILE.is_file():
    return ''
  lines = [_line(field, width) for field in read_fields(_FILE.read_text('utf-8'))]
  return '\n'.join(['fields of a config, set by --config.FIELD=VALUE:', *lines, ''])


def read_fields(source: str) -> list[Field]:
  """Return the fields that the function `get_config` of a config file sets, in their order.

  The comment of a field is at the end of its line, or above it.
  """
  comments = _comments(source)
  fields = []
  functions = (node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef))
  for node in next(function for function in functions if function.name == 'get_config').body:
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Attribute):
      name = ast.unparse(node.targets[0]).removeprefix('config.')
      above, line = [], node.lineno - 1
      while comments.get(line, ('', False))[1]:
        above.insert(0, comments[line][0])
        line -= 1
      beside = [comments[node.lineno][0]] if node.lineno in comments else []
      fields.append(Field(name, _value(node.value), ' '.join([*above, *beside])))
  return fields


def _comments(source: str) -> dict[int, tuple[str, bool]]:
  """Line number -> its comment, and True if the line has nothing else."""
  return {
    token.start[0]: (token.string.lstrip('# '), not token.line[: token.start[1]].strip())
    for token in tokenize.generate_tokens(io.StringIO(source).readline)
    if token.type == tokenize.COMMENT
  }


def _value(node: ast.expr) -> str | None:
  """Value as on the command line: of constants, `values(1, 5)`, and others such as `auto()`."""
  if not isinstance(node, ast.Call):
    value = ast.literal_eval(node)
    return str(value).lower() if isinstance(value, bool) else str(value)
  function = ast.unparse(node.func)
  if function == 'values':
    return ','.join(map(ast.unparse, node.args))
  return None if function == 'ConfigDict' else function


def _line(field: Field, width: int) -> str:
  """The field, and its comment beside it, or below if the name is long."""
  name = f'  {field.name}' + ('' if field.value is None else f'={field.value}')
  lines = textwrap.wrap(field.comment, max(width - _COLUMN, 20), break_on_hyphens=False)
  if len(name) <= _COLUMN - 2 and lines:
    name = f'{name:{_COLUMN}}{lines.pop(0)}'
  return '\n'.join([name, *(' ' * _COLUMN + line for line in lines)])
