"""Measurements of a study, kept in its folder, so that each is taken once."""

import json
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from etils import epath

from mixer_jax.errors import UserError
from mixer_jax.parallel import processes
from mixer_jax.paths import write_whole

T = TypeVar('T')


class ResultCache:
  """JSON values by name in one file, which is complete at all times; process 0 writes it.

  All processes make the same calls, and get the same values.

  Args:
    path: the file, local or in a bucket; it is created with the first value.
    about: settings that all values were measured with, by name.

  Raises:
    UserError: the file is damaged, has other settings, or differs between processes.
  """

  def __init__(self, path: epath.Path, about: Mapping[str, Any]):
    self._path, self._about = path, _as_json(about)
    self._values: dict[str, Any] = processes.together(self._read)
    processes.check_same({f'content of {path}': json.dumps(self._values, sort_keys=True)})

  def __contains__(self, name: str) -> bool:
    return name in self._values

  def __getitem__(self, name: str) -> Any:
    return self._values[name]

  def add(self, values: Mapping[str, Any]) -> None:
    """Adds values, and writes the file."""
    self._values |= _as_json(values)
    _write(self._path, {'about': self._about, 'values': self._values}, indent=2)

  def get_or_measure(self, name: str, measure: Callable[[], Any]) -> Any:
    """Returns the value of this name; measures and adds it if there is none."""
    if name not in self._values:
      self.add({name: measure()})
    return self._values[name]

  def _read(self) -> dict[str, Any]:
    if not self._path.exists():
      return {}
    try:
      stored = json.loads(self._path.read_text())
      about, values = stored['about'], stored['values']
    except (ValueError, KeyError, TypeError, RecursionError) as error:
      raise UserError(
        f'{self._path} is damaged ({error}): remove it, or use another --workdir'
      ) from error
    for name, value in self._about.items():
      if about.get(name) != value:
        raise UserError(
          f'{self._path} is of another study: its {name} is {about.get(name)!r}, not {value!r}; '
          'use another --workdir'
        )
    return values


class CachedRows(Generic[T]):
  """A list in a file of its own; measured again if the file is damaged or of other settings.

  All processes make the same calls, and process 0 writes the file.

  Args:
    path: the file, local or in a bucket.
    settings: settings that the rows are measured with, by name.
    make: makes a row from its JSON fields.
  """

  def __init__(self, path: epath.Path, settings: Mapping[str, Any], make: Callable[..., T]):
    self._path, self._settings, self._make = path, _as_json(settings), make

  def get(self) -> list[T] | None:
    """Returns the rows of the file; None if it is missing, damaged or of other settings."""
    try:
      stored = json.loads(self._path.read_text())
      if stored['settings'] != self._settings:
        return None
      return [self._make(**row) for row in stored['layers']]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
      return None

  def get_or_measure(self, measure: Callable[[], list[T]]) -> list[T]:
    """Returns the rows of the file; measures and writes them if it has none."""
    rows = self.get()
    processes.check_same({f'whether {self._path} is there': str(rows is not None)})
    if rows is None:
      rows = measure()
      _write(self._path, {'settings': self._settings, 'layers': [*map(vars, rows)]})
    return rows


def _write(path: epath.Path, content: Any, indent: int | None = None) -> None:
  if processes.is_main():
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=indent) + '\n')


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
  """Values as they are read back from a file."""
  return json.loads(json.dumps(values))
