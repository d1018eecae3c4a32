"""`metrics.jsonl`: one JSON object per logged step or event, continued after restarts.

A row with `event` records a start, an evaluation, a save, a request to stop, images that did not
decode, or the end; any other row is a logged training step. Steps that are repeated after a failure
appear again.
"""

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixer_jax import storage
from mixer_jax.runlog.appended import AppendedFile

FILE_NAME = 'metrics.jsonl'

_MAX_LISTED = 20

_WHOLE, _NUMBER, _TEXT = (int,), (int, float), (str,)
_TYPES: dict[str, tuple[type, ...]] = {
  **dict.fromkeys(('step', 'process', 'devices', 'images', 'best_step'), _WHOLE),
  **dict.fromkeys(('loss', 'accuracy', 'learning_rate', 'grad_norm'), _NUMBER),
  **dict.fromkeys(('top1', 'top5', 'real', 'seconds', 'blocked', 'time'), _NUMBER),
  **dict.fromkeys(('device_hours', 'core_days'), _NUMBER),
  **dict.fromkeys(('event', 'data', 'evaluator'), _TEXT),
  **dict.fromkeys(('images_per_second', 'input_wait'), (*_NUMBER, type(None))),
  'names': (list,),
}
"""Types of the fields that a reader uses."""
_NEEDED = {'end': ('step', 'device_hours'), 'diverged': ('reason',)}


class MetricsFile:
  """Appends rows to a workdir's metrics; local or in a bucket, see `AppendedFile`.

  An incomplete last row, of a process that was killed while it wrote, is removed.

  Raises:
    StorageError: the disk or bucket refuses; the rows before are intact.
  """

  def __init__(self, workdir):
    path = epath.Path(workdir) / FILE_NAME
    data = _read(path)
    complete = data[: data.rfind(b'\n') + 1]
    self._file = AppendedFile(path, complete)
    if self._file.is_local and complete != data:
      storage.write_retried(path, lambda: os.truncate(path, len(complete)))

  def write(self, row: dict[str, Any]) -> None:
    """Append one row."""
    self._file.append(json.dumps(row).encode() + b'\n', flush='event' in row)

  def flush(self) -> None:
    """Write rows that are held back."""
    self._file.flush()


def read_metrics(workdir) -> list[dict[str, Any]]:
  """Return all rows in the order they were written; incomplete ones are skipped."""
  return rows_and_damaged(workdir)[0]


def rows_and_damaged(workdir) -> tuple[list[dict[str, Any]], int]:
  """Return all rows in the order they were written, and the number of lines that hold none.

  The known fields of a row have the types that this package writes; further fields may have any.
  """
  rows, damaged = [], 0
  for line in _read(epath.Path(workdir) / FILE_NAME).decode(errors='replace').splitlines():
    try:
      row = json.loads(line)
    except (ValueError, RecursionError):
      row = None
    if isinstance(row, dict) and _is_row(row):
      rows.append(row)
    else:
      damaged += 1
  return rows, damaged


def _is_row(row: dict[str, Any]) -> bool:
  types = _TYPES if row.get('event') != 'startup' else {}  # its fields are seconds of each part
  if not all(type(row[name]) in types[name] for name in types.keys() & row.keys()):
    return False
  needed = _NEEDED.get(row.get('event', ''), ('step',))
  return row.keys() >= {*needed} and row.get('step', 0) >= 0


def _read(path: epath.Path) -> bytes:
  try:
    return storage.read_file(path, limit=None)
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


def input_wait(rows: Sequence[Mapping[str, Any]]) -> float | None:
  """Return the share of the time that the devices waited for input, the median of the rows."""
  shares = [row['input_wait'] for row in rows if row.get('input_wait') is not None]
  return statistics.median(shares) if shares else None


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
