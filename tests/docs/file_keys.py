"""The tables of docs/files.md, and the keys of real files."""

import functools
import io
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.docs.blocks import ROOT

PAGE = ROOT / 'docs' / 'files.md'


@functools.cache
def documented() -> dict[str, list[tuple[str, ...]]]:
  """File or flag -> its keys, each as the names of its levels."""
  found = {}
  for section in re.split(r'^## ', PAGE.read_text(), flags=re.MULTILINE)[1:]:
    name = section.splitlines()[0].strip('`')
    rows = re.findall(r'^\| (`.*?`) \|.*\|$', section, re.MULTILINE)
    keys = [key for row in rows for key in re.findall(r'`([^`]+)`', row)]
    found[name] = [tuple(key.split('.')) for key in keys]
  return found


def undocumented(name: str, content: Any) -> list[str]:
  """Return the keys of a file that docs/files.md does not have.

  Args:
    name: of its section.
    content: of the file, as JSON is read; or the keys of an .npz or CSV file, each with anything.
  """
  known = documented()[name]
  keys = set(_paths(content))
  return sorted('.'.join(path) for path in keys if not any(_is(path, key) for key in known))


def assert_documented(name: str, content: Any) -> None:
  """Fail if a real file has a key that docs/files.md does not have."""
  if isinstance(content, bytes | pathlib.Path):
    data = content.read_bytes() if isinstance(content, pathlib.Path) else content
    with np.load(io.BytesIO(data)) as arrays:
      content = dict.fromkeys(arrays.files)
  missing = undocumented(name, content)
  assert not missing, f'{name}: {missing}'


def _paths(value: Any, above: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
  if isinstance(value, dict) and value:
    for name, item in value.items():
      yield from _paths(item, (*above, str(name)))
  elif isinstance(value, list) and value and isinstance(value[0], dict):
    place = (*above[:-1], f'{above[-1]}[]') if above else ()
    for item in value:
      yield from _paths(item, place)
  else:
    yield above


def _is(path: tuple[str, ...], key: tuple[str, ...]) -> bool:
  """Return True if a key of the page, with its `*` and `**`, is that of a path.

  A group that is empty has no names of its own, so `a.*` is also `a`.
  """
  if key and key[-1] == '**':
    return len(path) >= len(key) - 1 and all(map(_fits, path, key[:-1]))
  if key and key[-1] == '*' and len(path) == len(key) - 1:
    return all(map(_fits, path, key))
  return len(path) == len(key) and all(map(_fits, path, key))


def _fits(name: str, pattern: str) -> bool:
  return re.fullmatch(re.escape(pattern).replace(r'\*', '.*'), name) is not None
