"""A run read from rows of metrics.jsonl."""

import json

import pytest

from mixer_jax.runlog.metrics import listed, rows_and_damaged, undecodable
from mixer_jax.webpage import runs
from mixer_jax.webpage.runs import Run, valid_rows


def start(step: int, **more):
  row = {'event': 'start', 'step': step, 'process': 0, 'devices': 8, 'device': 'TPU v3'}
  return {**row, 'time': 1_000_000.0, 'seconds': 10.0, **more}


def logged(step: int, loss: float, **more):
  return {'step': step, 'loss': loss, 'seconds': 10.0 + step, **more}


ROWS = [
  start(0),
  start(0, process=1),
  logged(10, 3.0, images_per_second=None),
  logged(20, 2.0, images_per_second=100.0, input_wait=None),
  {'event': 'eval', 'step': 20, 'top1': 50.0, 'loss': 1.0},
  {'event': 'save', 'step': 20, 'blocked': 0.25, 'seconds': 31.0},
  logged(30, 9.0),
  {'event': 'preempted', 'step': 30, 'seconds': 41.0},
  start(20, time=1_003_600.0, devices=4, restored='x/20'),
  logged(30, 1.5, images_per_second=300.0, input_wait=0.25),
  logged(40, 1.5, input_wait=0.35),
  {'event': 'undecodable', 'step': 40, 'images': 1, 'names': ['made/train#5 (5.png)']},
  {'event': 'eval', 'step': 40, 'top1': 45.0, 'loss': 1.1},
  {'event': 'save', 'step': 40, 'blocked': 0.5, 'seconds': 70.0},
  {'event': 'end', 'step': 40, 'device_hours': 1.5, 'core_days': 0.0625, 'seconds': 90.0},
]
RUN = Run('a', '/a', {'total_steps': 40}, rows=valid_rows(ROWS), damaged_states=[30])


def test_curves_take_the_later_row_of_a_step():
  assert RUN.rows == ROWS
  assert RUN.training_curve('loss') == [(10, 3.0), (20, 2.0), (30, 1.5), (40, 1.5)]
  assert RUN.training_curve('images_per_second') == [(20, 100.0), (30, 300.0)]
  assert RUN.training_curve('input_wait') == [(30, 0.25), (40, 0.35)]
  assert RUN.event_curve('eval', 'top1') == [(20, 50.0), (40, 45.0)]
  assert RUN.metrics('eval') == ['step', 'top1', 'loss']


def test_figures_of_a_run():
  assert (RUN.step, RUN.ended, RUN.device_hours, RUN.images_per_second) == (40, True, 1.5, 200)
  assert RUN.input_wait == pytest.approx(0.3)
  assert RUN.restarts == [20]
  unfinished = Run('b', '/b', rows=ROWS[:-1])
  assert not unfinished.ended
  assert unfinished.device_hours == pytest.approx((8 * 41 + 4 * 70) / 3600)
  empty = Run('c', '/c')
  assert (empty.step, empty.images_per_second, empty.input_wait) == (0, None, None)


def test_events_are_listed_in_order():
  events = [(event.step, event.text) for event in runs.events(RUN)]
  assert events == [
    (0, 'started on 8 × TPU v3'),
    (30, 'asked to stop; its state was saved'),
    (20, 'restarted on 4 × TPU v3; 10 steps are repeated'),
    (40, 'training images that did not decode and were replaced: 1 (made/train#5 (5.png))'),
    (40, 'finished'),
    (30, 'the state of this step is damaged and was set aside'),
  ]
  again = [start(0), logged(30, 1.0), start(0), logged(20, 1.0), start(20)]
  texts = [event.text for event in runs.events(Run('b', '/b', rows=valid_rows(again)))]
  assert texts[1:] == ['restarted on 8 × TPU v3; 30 steps are repeated', 'restarted on 8 × TPU v3']
  times = [event.time for event in runs.events(RUN)]
  assert times == ['1970-01-12 13:46', '1970-01-12 13:47', '1970-01-12 14:46',
                   '1970-01-12 14:47', '1970-01-12 14:48', '']  # fmt: skip
  assert runs.saves(RUN) == '2 states saved; training waited 0.75 s, the longest 0.50 s'
  assert runs.saves(Run('c', '/c')) == ''


BAD = [
  {'loss': 1.0},
  {'step': 'x'},
  {'step': -1},
  {'step': True},
  {'step': 10**400},
  {'step': 1, 'loss': '<b>'},
  {'step': 1, 'loss': float('nan')},
  {'step': 1, 'loss': 10**400},
  {'step': 1, 'event': 7},
  {'step': 1, 'seconds': None},
  {'event': 'start', 'step': 1, 'time': []},
]


@pytest.mark.parametrize('row', BAD, ids=[json.dumps(row)[:40] for row in BAD])
def test_invalid_rows_are_left_out(row):
  assert valid_rows([*ROWS, row]) == ROWS


def test_unexpected_values_in_a_row_do_no_harm():
  odd = {'event': 'undecodable', 'step': 1, 'names': 3, 'best_step': {}}
  rows = [start(0, time=1e17, device=['x']), {**odd, 'event': 'early_stop'}, odd]
  events = list(runs.events(Run('a', '/a', rows=valid_rows(rows))))
  assert [event.time for event in events] == [''] * 3


def test_lines_without_a_row_are_counted(tmp_path):
  lines = ['{"step": 1}', '{"step": 2, "lo', '[1]', '7', '', '[' * 100_000, '{"step": 3}']
  (tmp_path / 'metrics.jsonl').write_text('\n'.join(lines))
  rows, damaged = rows_and_damaged(tmp_path)
  assert rows == [{'step': 1}, {'step': 3}]
  assert damaged == 5


def test_names_of_skipped_images_count_once_over_all_starts():
  row = lambda *names: {'event': 'undecodable', 'step': 1, 'names': list(names)}
  assert undecodable([row('b', 'a'), logged(2, 1.0), row('b', 'c')]) == ['a', 'b', 'c']
  assert listed(['a', 'b']) == '2 (a, b)'
  assert listed(['a'] * 1234).endswith(', a, … (1214 more))')
