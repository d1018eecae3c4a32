"""`metrics.jsonl` after restarts and kills, and the device-hours computed from it."""

import errno
import json
import math
import resource

import pytest

from mixer_jax.errors import StorageError
from mixer_jax.runlog import appended
from mixer_jax.runlog.metrics import (
  MetricsFile,
  device_hours,
  input_wait,
  read_metrics,
  rows_and_damaged,
)
from mixer_jax.storage import RETRY_SETTING


def test_rows_survive_restarts_and_incomplete_ones_are_skipped(tmp_path):
  MetricsFile(tmp_path).write({'step': 1, 'loss': 0.5})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 2, "lo')  # killed here
  again = MetricsFile(tmp_path)
  again.write({'event': 'start', 'step': 1})
  again.flush()
  assert read_metrics(tmp_path) == [{'step': 1, 'loss': 0.5}, {'event': 'start', 'step': 1}]
  assert (tmp_path / 'metrics.jsonl').read_text().count('\n') == 2


def test_a_row_is_written_completely_or_not_at_all(tmp_path, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0')
  file = MetricsFile(tmp_path)
  file.write({'step': 1})
  limits = resource.getrlimit(resource.RLIMIT_FSIZE)
  try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (40, limits[1]))
    with pytest.raises(StorageError, match=r'metrics\.jsonl cannot be written now: File too large'):
      file.write({'step': 2, 'loss': 'x' * 40})
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
  assert (tmp_path / 'metrics.jsonl').read_text() == '{"step": 1}\n'
  file.write({'step': 2})
  assert read_metrics(tmp_path) == [{'step': 1}, {'step': 2}]


def test_a_row_waits_for_a_disk_that_is_full_for_a_moment(tmp_path, monkeypatch):
  file, left = MetricsFile(tmp_path), [2]

  def full(*how, **more):
    if left[0] and 'ab' in how:
      left[0] -= 1
      raise OSError(errno.ENOSPC, 'No space left on device')
    return open(*how, **more)

  monkeypatch.setattr(appended, 'open', full, raising=False)
  file.write({'step': 1})
  assert left == [0]
  assert read_metrics(tmp_path) == [{'step': 1}]


def test_rows_of_wrong_types_are_no_rows(tmp_path):
  good = [
    {'step': 1, 'loss': math.nan, 'images_per_second': None},
    {'step': 1, 'images_per_second': 1.5, 'input_wait': None},
    {'step': 1, 'input_wait': 0.25},
    {'event': 'end', 'step': 2, 'device_hours': 1.0, 'later': {'any': ['thing']}},
    {'event': 'diverged', 'reason': 'nan'},
  ]
  bad = [
    {}, [], {'loss': 1.0}, {'step': 'x'}, {'step': True}, {'step': -1}, {'step': 1, 'loss': '1'},
    {'step': 1, 'event': ['eval']}, {'event': 'end', 'step': 2}, {'event': 'eval', 'top1': 1.0},
    {'event': 'eval', 'step': 1, 'top1': None}, {'event': 'undecodable', 'step': 1, 'names': 3},
    {'event': 'start', 'step': 0, 'devices': '8'}, {'event': 'diverged'},
    {'step': 1, 'seconds': []}, {'step': 1, 'input_wait': '0.25'},
  ]  # fmt: skip
  lines = [json.dumps(row) for row in (*good, *bad)]
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines))
  rows, damaged = rows_and_damaged(tmp_path)
  assert json.dumps(rows) == json.dumps(good)
  assert damaged == len(bad)
  assert device_hours(rows) == 0
  assert input_wait(rows) == 0.25
  assert input_wait(rows[:2]) is None


def test_every_row_of_a_run_is_read(trained):
  rows, damaged = rows_and_damaged(trained)
  assert {row.get('event') for row in rows} >= {'start', 'startup', 'eval', 'save', 'end', None}
  assert damaged == 0


def test_a_new_run_has_no_rows(tmp_path):
  assert read_metrics(tmp_path) == []


def test_device_hours_include_killed_starts():
  def start(devices, process=0):
    return {'event': 'start', 'devices': devices, 'process': process, 'seconds': 2.0}

  rows = [
    start(8), start(8, process=1), {'step': 10, 'seconds': 3600.0},  # killed after this row
    start(4), {'step': 20, 'seconds': 900.0}, {'event': 'end', 'seconds': 1800.0},
  ]  # fmt: skip
  assert device_hours(rows) == pytest.approx(8 * 1 + 4 * 0.5)
  assert device_hours([]) == 0
