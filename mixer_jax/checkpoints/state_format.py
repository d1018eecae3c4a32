"""The format number of what a run stores: `config.json` and the metadata of each state.

A run that was stored before there was a number has format 0. `runs.config_versions` has the
differences between the formats.
"""

from collections.abc import Mapping
from typing import Any

from mixer_jax import __version__
from mixer_jax.errors import UserError

FORMAT = 3
"""Format that this version writes. It reads this one and all earlier ones."""


def stamp() -> dict[str, Any]:
  """Return the entries that say which format and which version of mixer_jax wrote a file."""
  return {'format': FORMAT, 'version': __version__}


def format_of(name, stored: Mapping[str, Any]) -> int:
  """Return the format of what is stored, 0 if it has no number.

  Args:
    name: the file or state, for the message.
    stored: content of a `config.json`, or the metadata of a state.

  Raises:
    UserError: a newer version of mixer_jax wrote it, or the number is none.
  """
  number = stored.get('format', 0)
  if type(number) is not int or number < 0:
    raise UserError(f'{name} has the format {number!r:.40}, which is no number')
  if number > FORMAT:
    raise UserError(
      f'{name} has format {number}, written by mixer_jax {stored.get("version")!s:.40}; this is '
      f'{__version__}, which reads formats up to {FORMAT}: install that version or a later one'
    )
  return number
