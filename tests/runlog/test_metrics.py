"""`metrics.jsonl` after restarts and kills, and the device-hours computed from it."""

import pytest

from mixer_jax.runlog.metrics import MetricsFile, device_hours, read_metrics


def test_rows_survive_restarts_and_incomplete_ones_are_skipped(tmp_path):
  MetricsFile(tmp_path).write({'step': 1, 'loss': 0.5})
  with (tmp_path / 'metrics.jsonl').open('a') as file:
    file.write('{"step": 2, "lo')  # killed here
  again = MetricsFile(tmp_path)
  again.write({'event': 'start', 'step': 1})
  again.flush()
  assert read_metrics(tmp_path) == [{'step': 1, 'loss': 0.5}, {'event': 'start', 'step': 1}]


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
