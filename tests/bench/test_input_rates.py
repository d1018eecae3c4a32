"""CPU time of processes, images/s of batches, and what they say about larger hosts."""

import itertools
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from mixer_jax.bench import cpu_time, input_rates, report_text
from mixer_jax.bench.cpu_time import Stopwatch

BUSY = """
import sys, time
while time.process_time() < .3: pass
print(time.process_time(), flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not os.path.exists('/proc/self/stat'), reason='needs /proc')
def test_the_cpu_time_of_a_child_is_that_which_it_reports_itself():
  stopwatch = Stopwatch()
  with subprocess.Popen(
    [sys.executable, '-c', BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
  ) as child:
    assert child.stdout
    reported = float(child.stdout.readline())
    used = stopwatch.per_image(1)
    child.communicate()
  assert used.children == pytest.approx(reported, abs=0.05)
  assert used.own < 0.2  # the child's is not counted there


def test_without_proc_the_time_of_children_is_unknown(monkeypatch, tmp_path):
  monkeypatch.setattr(cpu_time, '_PROC', tmp_path)
  own, children = Stopwatch().per_image(2)
  assert own >= 0
  assert children is None


def test_images_are_counted_after_those_that_were_begun_before(monkeypatch):
  monkeypatch.setattr(input_rates, '_ROUND_SECONDS', 1e-9)  # one batch per round
  clock = itertools.count()
  monkeypatch.setattr(time, 'perf_counter', lambda: float(next(clock)))
  taken = []

  def batches():
    for number in itertools.count():
      taken.append(number)
      yield {'label': np.zeros(8), 'mask': np.arange(8) < (6 if number >= 3 else 1)}

  rates, _ = input_rates.timed(batches(), ahead=20, rounds=4)
  assert rates == [6.0] * 4  # a second per round; padding is no image
  assert taken == list(range(3 + 4))


def test_cpu_time_says_what_a_larger_host_can_do():
  row = {
    'workers': 4,
    'images_per_second': 1500.0,
    'cpu_seconds_per_image': 2e-3,
    'feeding_seconds_per_image': 5e-5,
  }
  found = input_rates.extrapolated(row)
  assert found['images_per_second_per_core'] == pytest.approx(500)
  assert found['most_images_per_second'] == pytest.approx(20_000)
  assert found['share_of_expected'] == pytest.approx(1500 / (4 * 500))
  assert found['cores_needed'] == {'1000': 2.0, '3000': 6.0, '10000': 20.0, '30000': None}
  unknown = {**row, 'cpu_seconds_per_image': None}
  assert input_rates.extrapolated(unknown)['cpu_seconds_per_image'] is None


def test_the_report_has_a_row_for_each_measurement():
  rows = [
    {
      'workers': workers,
      'threads': 1,
      'images_per_second': 900.0 * (workers or 1),
      'cpu_seconds_per_image': 1e-3,
      'feeding_seconds_per_image': 1e-5 if workers else None,
    }
    for workers in (0, 2)
  ]
  row = {
    'images_per_second': 900.0,
    'evaluation_images_per_second': 300.0,
    'images': 'photographs',
    'cores': 2,
    'workers': 0,
    'threads': 1,
    'cpu': 'Some CPU',
    'scaling': rows,
    **input_rates.extrapolated(rows[-1]),
  }
  text = report_text.part('input', row)
  lines = text.splitlines()
  assert lines[0].startswith('input      900 images/s for training, 300 for evaluation, of photo')
  assert [line.split()[:4] for line in lines[2:4]] == [
    ['0', '1', '900', '1'],
    ['2', '1', '1,800', '1'],
  ]
  assert lines[0].endswith('on 2 cores, with data.workers=0 and data.threads=1')
  assert 'Some CPU' in text
  assert 'the lower of n × 1,000 and 100,000 images/s; on these 2 it was 90 %' in text
  assert '1,000 (1.0), 3,000 (3.0), 10,000 (10.0), 30,000 (30.0)' in text
  row |= {'cpu_seconds_per_image': None}
  assert report_text.part('input', row).endswith('is known on Linux only')
