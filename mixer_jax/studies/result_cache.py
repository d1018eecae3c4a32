"""What a study has measured, kept in its folder, so that it is measured once."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from etils import epath

from mixer_jax.errors import UserError
from mixer_jax.parallel import processes


class Memo:
  """Values of JSON by name in one file, whole at every moment; process 0 writes it.

  All processes call it alike, and see the same values.

  Args:
    path: the file, local or in a bucket; it appears with the first value.
    about: what all values hold for, by name.

  Raises:
    UserError: the file is damaged, of something else, or not the same for all processes.
  """

  def __init__(self, path: epath.Path, about: Mapping[str, Any]):
    self._path, self._about = path, json.loads(json.dumps(about))
    self._values: dict[str, Any] = processes.together(self._read)
    processes.check_same({f'what {path} holds': json.dumps(self._values, sort_keys=True)})

  def __contains__(self, name: str) -> bool:
    return name in self._values

  def __getitem__(self, name: str) -> Any:
    return self._values[name]

  def keep(self, values: Mapping[str, Any]) -> None:
    """Adds values, and writes all."""
    self._values |= json.loads(json.dumps(values))
    if not processes.is_main():
      return
    self._path.parent.mkdir(parents=True, exist_ok=True)
    aside = self._path.parent / f'{self._path.name}.tmp'
    aside.write_text(json.dumps({'about': self._about, 'values': self._values}, indent=2) + '\n')
    aside.replace(self._path)

  def get(self, name: str, measure: Callable[[], Any]) -> Any:
    """The value of this name; measured and kept if there is none."""
    if name not in self._values:
      self.keep({name: measure()})
    return self._values[name]

  def _read(self) -> dict[str, Any]:
    if not self._path.exists():
      return {}
    try:
      stored = json.loads(self._path.read_text())
      about, values = stored['about'], stored['values']
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{self._path} is damaged ({error}): remove it, or take another --workdir'
      ) from error
    for name, value in self._about.items():
      if about.get(name) != value:
        raise UserError(
          f'{self._path} is of another study: its {name} is {about.get(name)!r}, not {value!r}; '
          'take another --workdir'
        )
    return values
