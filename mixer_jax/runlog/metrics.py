"""`metrics.jsonl`: one JSON object a logged step or event, kept over restarts.

A row with `event` tells of a start, an evaluation, a save, an order to leave, images that did
not decode, or the end; any other is a logged training step. After a fault the steps that are done
again appear again.
"""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

FILE_NAME = 'metrics.jsonl'

_REMOTE_FLUSH_SECONDS = 30
_MOST_LISTED = 20


class MetricsFile:
  """Appends rows to a workdir's metrics; local or in a bucket.

  A local row is on disk when `write` returns. An object in a bucket cannot grow, so
  there the whole file is written anew, at most every half minute or with an event.
  """

  def __init__(self, workdir):
    self._path = epath.Path(workdir) / FILE_NAME
    self._local = '://' not in str(self._path)
    self._remote_text, self._flushed = '', time.monotonic()
    text = _text(self._path)
    if text and not text.endswith('\n'):
      text += '\n'  # a killed process left half a row: readers skip it
      if self._local:
        with self._path.open('a') as file:
          file.write('\n')
    if not self._local:
      self._remote_text = text

  def write(self, row: dict[str, Any]) -> None:
    """Adds one row."""
    line = json.dumps(row) + '\n'
    if self._local:
      with self._path.open('a') as file:
        file.write(line)
      return
    self._remote_text += line
    if 'event' in row or time.monotonic() - self._flushed > _REMOTE_FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Writes what is held back."""
    if not self._local:
      self._path.write_text(self._remote_text)
      self._flushed = time.monotonic()


def read_metrics(workdir) -> list[dict[str, Any]]:
  """All rows in the order they were written; half-written ones are skipped."""
  return rows_and_damaged(workdir)[0]


def rows_and_damaged(workdir) -> tuple[list[dict[str, Any]], int]:
  """All rows in the order they were written, and the number of lines that hold none."""
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
  """Names of the training images that did not decode, each once over all starts of the run."""
  events = (row for row in rows if row.get('event') == 'undecodable')
  return sorted({name for row in events for name in row.get('names', ())})


def listed(names: Sequence[str]) -> str:
  """'2 (a, b)'; of very many names only the first."""
  more = f', … ({len(names) - _MOST_LISTED} more)' if len(names) > _MOST_LISTED else ''
  return f'{len(names):,} ({", ".join(names[:_MOST_LISTED])}{more})'


def device_hours(rows: Sequence[Mapping[str, Any]]) -> float:
  """Devices × wall hours, summed over all starts of the run.

  A start that was killed counts up to its last row.
  """
  total, devices, seconds = 0.0, 0, 0.0
  for row in rows:
    if row.get('event') == 'start' and row.get('process', 0) == 0:
      total += devices * seconds
      devices, seconds = row.get('devices', 0), 0.0
    seconds = max(seconds, row.get('seconds', 0.0))
  return (total + devices * seconds) / 3600
