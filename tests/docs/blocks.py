"""The code blocks of README and docs, and the command lines in them."""

import pathlib
import re
from typing import NamedTuple

ROOT = pathlib.Path(__file__).parents[2]
PAGES = (ROOT / 'README.md', *sorted((ROOT / 'docs').glob('*.md')))


class Line(NamedTuple):
  """A command line of a page."""

  page: str
  number: int
  """Line number in the file, from 1."""
  text: str
  """Continued lines joined, without what surrounds them."""


def blocks(page: pathlib.Path, language: str) -> list[tuple[int, str]]:
  """Return (number of the first line, text) of every code block of a language.

  Raises:
    AssertionError: a block has no language or one that no test knows.
  """
  found, start, kind, lines = [], 0, None, []
  for number, line in enumerate(page.read_text().splitlines(), 1):
    if kind is None and line.lstrip().startswith('```'):
      kind, start, lines = line.strip().removeprefix('```'), number + 1, []
      assert kind in ('sh', 'python', 'text'), f'{page.name}:{number}: code block of {kind!r}'
    elif kind is not None and line.strip() == '```':
      if kind == language:
        found.append((start, '\n'.join(lines)))
      kind = None
    elif kind is not None:
      lines.append(line)
  assert kind is None, f'{page.name}:{start}: a code block without an end'
  return found


def command_lines(page: pathlib.Path) -> list[Line]:
  """Return the command lines of all `sh` blocks, in order, continued lines joined."""
  found = []
  for start, text in blocks(page, 'sh'):
    pending, first = '', start
    for offset, line in enumerate(text.splitlines()):
      if not pending:
        first = start + offset
      pending += line.strip()
      if pending.endswith('\\'):
        pending = pending[:-1]
        continue
      if pending and not pending.startswith('#'):
        found.append(Line(page.name, first, re.sub(r'\s+#\s.*$', '', pending)))
      pending = ''
    assert not pending, f'{page.name}:{first}: the last line of a block is continued'
  return found
