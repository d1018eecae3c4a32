"""`metrics.jsonl`: one JSON object per logged step or event, continued after restarts.

A row with `event` records a start, an evaluation, a save, a request to stop, images that did not
decode, or the end; any other row is a logged training step. Steps that are repeated after a failure
appear again.
"""

import contextlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixer_jax import storage
from mixer_jax.paths import is_remote

FILE_NAME = 'metrics.jsonl'

_REMOTE_FLUSH_SECONDS = 30
_MAX_LISTED = 20


class MetricsFile:
  """Appends rows to a workdir's metrics; local or in a bucket. One process writes them.

  A local row is on disk when `write` returns. An object in a bucket cannot be appended to, so the
  complete file is written again, at most every half minute or with an event.

  An incomplete last row, of a process that was killed while it wrote, is removed.

  Raises:
    StorageError: the disk or bucket refuses; the rows before are intact.
  """

  def __init__(self, workdir):
    self._path = epath.Path(workdir) / FILE_NAME
    self._local = not is_remote(self._path)
    self._remote, self._flushed = b'', time.monotonic()
    data = _read(self._path)
    complete = data[: data.rfind(b'\n') + 1]
    if not self._local:
      self._remote = complete
    elif complete != data:
      storage.write_retried(self._path, lambda: os.truncate(self._path, len(complete)))

  def write(self, row: dict[str, Any]) -> None:
    """Append one row."""
    line = json.dumps(row).encode() + b'\n'
    if self._local:
      storage.write_retried(self._path, lambda: _append(self._path, line))
      return
    self._remote += line
    if 'event' in row or time.monotonic() - self._flushed > _REMOTE_FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Write rows that are held back."""
    if not self._local:
      storage.write_retried(self._path, lambda: self._path.write_bytes(self._remote))
      self._flushed = time.monotonic()


def _append(path: epath.Path, line: bytes) -> None:
  """Append a line completely or not at all."""
  with open(path, 'ab', buffering=0) as file:  # a buffer would write its rest when it is closed
    end = file.tell()
    try:
      while line:
        line = line[file.write(line) :]
    except OSError:
      with contextlib.suppress(OSError):
        file.truncate(end)
      raise


def read_metrics(workdir) -> list[dict[str, Any]]:
  """Return all rows in the order they were written; incomplete ones are skipped."""
  return rows_and_damaged(workdir)[0]


def rows_and_damaged(workdir) -> tuple[list[dict[str, Any]], int]:
  """Return all rows in the order they were written, and the number of lines without one."""
  rows, damaged = [], 0
  for line in _read(epath.Path(workdir) / FILE_NAME).decode(errors='replace').splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict):
      rows.append(row)
    else:
      damaged += 1
  return rows, damaged


def _read(path: epath.Path) -> bytes:
  try:
    return storage.read_retried(path, path.read_bytes)
  except FileNotFoundError:
    return b''


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
