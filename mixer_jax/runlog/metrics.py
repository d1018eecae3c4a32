"""`metrics.jsonl`: one JSON object per logged step or event, continued after restarts.

A row with `event` records a start, an evaluation, a save, a request to stop, images that did not
decode, or the end; any other row is a logged training step. Steps that are repeated after a failure
appear again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixer_jax.paths import is_remote

FILE_NAME = 'metrics.jsonl'

_REMOTE_FLUSH_SECONDS = 30
_MAX_LISTED = 20


class MetricsFile:
  """Appends rows to a workdir's metrics; local or in a bucket.

  A local row is on disk when `write` returns. An object in a bucket cannot be appended to, so the
  complete file is written again, at most every half minute or with an event.
  """

  def __init__(self, workdir):
    self._path = epath.Path(workdir) / FILE_NAME
    self._local = not is_remote(self._path)
    self._remote_text, self._flushed = '', time.monotonic()
    text = _text(self._path)
    if text and not text.endswith('\n'):
      text += '\n'  # a process was killed while writing a row; readers skip it
      if self._local:
        with self._path.open('a') as file:
          file.write('\n')
    if not self._local:
      self._remote_text = text

  def write(self, row: dict[str, Any]) -> None:
    """Append one row."""
    line = json.dumps(row) + '\n'
    if self._local:
      with self._path.open('a') as file:
        file.write(line)
      return
    self._remote_text += line
    if 'event' in row or time.monotonic() - self._flushed > _REMOTE_FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Write rows that are held back."""
    if not self._local:
      self._path.write_text(self._remote_text)
      self._flushed = time.monotonic()


def read_metrics(workdir) -> list[dict[str, Any]]:
  """Return all rows in the order they were written; incomplete ones are skipped."""
  return rows_and_damaged(workdir)[0]


def rows_and_damaged(workdir) -> tuple[list[dict[str, Any]], int]:
  """Return all rows in the order they were written, and the number of lines without one."""
  rows, damaged = [], 0
  for line in _text(epath.Path(workdir) / FILE_NAME).splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      damaged += 1
  return rows, damaged


def _text(path: epath.Path) -> str:
  return path.read_bytes().decode(errors='replace') if path.exists() else ''


def undecodable(rows: Sequence[Mapping[str, Any]]) -> list[str]:
  """Return the training images that did not decode, each once over all starts of the run."""
  events = (row for row in rows if row.get('event') == 'undecodable')
  return sorted({name for row in events for name in row.get('names', ())})


def listed(names: Sequence[str]) -> str:
  """Return names in words, '2 (a, b)'; only the first of very many."""
  more = f', … ({len(names) - _MAX_LISTED} more)' if len(names) > _MAX_LISTED else ''
  return f'{len(names):,} ({", ".join(names[:_MAX_LISTED])}{more})'


def device_hours(rows: Sequence[Mapping[str, Any]]) -> float:
  """Return devices × wall hours, summed over all starts of the run.

  A start that was killed counts up to its last row.
  """
  total, devices, seconds = 0.0, 0, 0.0
  for row in rows:
    if row.get('event') == 'start' and row.get('process', 0) == 0:
      total += devices * seconds
      devices, seconds = row.get('devices', 0), 0.0
    seconds = max(seconds, row.get('seconds', 0.0))
  return (total + devices * seconds) / 3600
