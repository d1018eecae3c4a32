"""The live line, plain lines, and the rate of training."""

import io
import json
import logging

import pytest

from mixer_jax.runlog import progress
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runlog.terminal import Terminal, duration


class Tty(io.StringIO):
  def isatty(self):
    return True


def test_a_live_line_is_rewritten_and_log_lines_stay_above():
  stream = Tty()
  terminal = Terminal(stream)
  terminal.live('step 1')
  terminal.emit(logging.makeLogRecord({'msg': 'saved'}))
  terminal.plain('not on a terminal')
  terminal.finish()
  # The final screen: each \r\x1b[K erases the text before it.
  lines = [line.split('\r\x1b[K')[-1] for line in stream.getvalue().split('\n')]
  assert lines == ['saved', 'step 1', '']


def test_names_from_files_cannot_move_the_cursor():
  stream = Tty()
  terminal = Terminal(stream)
  terminal.say('a\x1b[31m\nb\r\udce9')
  terminal.live('c\x07\nd')
  shown = stream.getvalue().replace('\r\x1b[K', '')
  assert shown == 'a\\x1b[31m\nb\\r\\xe9\nc\\x07\\nd'


def test_a_log_gets_plain_lines_only():
  stream = io.StringIO()
  terminal = Terminal(stream)
  terminal.live('step 1')
  terminal.plain('step 10')
  terminal.finish()
  assert stream.getvalue() == 'step 10\n'


@pytest.mark.parametrize(
  ('seconds', 'text'),
  [(0.4, '0 s'), (41.2, '41 s'), (59.6, '1 min 00 s'), (725, '12 min 05 s'), (11220, '3 h 07 min')],
)
def test_durations(seconds, text):
  assert duration(seconds) == text


def test_rate_and_time_left_exclude_compilation_and_pauses(tmp_path, monkeypatch):
  now = 100.0
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
  stream = io.StringIO()
  monkeypatch.setattr('mixer_jax.runlog.terminal._installed', Terminal(stream))
  reporter = progress.Progress(
    MetricsFile(tmp_path), total_steps=10, batch_size=50, log_every=2,
    started=90.0,
  )  # fmt: skip
  # Step 1 ends at 100 after 10 s of compilation; steps take 2 s; a pause of 60 s after step 4.
  for step in range(1, 7):
    reporter.step(step, {'loss': 1.0, 'accuracy': 0.25})
    if step == 4:
      reporter.pause()
      now += 60
    now += 2
  rows = read_metrics(tmp_path)
  assert [row['step'] for row in rows] == [2, 4, 6]
  assert [row['images_per_second'] for row in rows] == pytest.approx([25.0] * 3)
  assert [row['seconds'] for row in rows] == [12.0, 16.0, 80.0]
  last = stream.getvalue().splitlines()[-1]
  assert last == 'step  6/10  loss 1.0000  accuracy  25.0 %  25 images/s  8 s left'
  assert [row['input_wait'] for row in rows] == [None] * 3
  reporter.event('save', step=6)
  assert json.loads((tmp_path / 'metrics.jsonl').read_text().splitlines()[-1])['event'] == 'save'


def test_share_of_waiting_is_in_the_row_and_the_line(tmp_path, monkeypatch):
  now, shares = 0.0, iter([None, 0.98764, 0.0])
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
  stream = io.StringIO()
  monkeypatch.setattr('mixer_jax.runlog.terminal._installed', Terminal(stream))
  reporter = progress.Progress(
    MetricsFile(tmp_path), total_steps=1_025_000, batch_size=4096, log_every=2, started=0.0,
    input_wait=shares.__next__,
  )  # fmt: skip
  returned = []
  for step in range(1, 7):
    returned.append(reporter.step(step, {'loss': 10.5, 'accuracy': 1.0}))
    now += 0.04
  rows = read_metrics(tmp_path)
  assert [row['input_wait'] for row in rows] == [None, 0.9876, 0.0]
  assert [{'seconds': row['seconds'], **one} for row, one in zip(rows, returned[1::2], strict=True)
          ] == rows  # fmt: skip
  assert returned[::2] == [None] * 3
  lines = stream.getvalue().splitlines()
  assert lines[1] == (
    'step       4/1025000  loss 10.5000  accuracy 100.0 %  102,400 images/s  11 h 23 min left  '
    'waits 99 %'
  )
  assert lines[0].endswith(' left')
  assert lines[2].endswith('  waits 0 %')
  assert max(map(len, lines)) <= 100


@pytest.mark.parametrize('keep', [True, False])
def test_reading_keeps_its_line_or_restores_the_one_before(monkeypatch, keep):
  stream = Tty()
  monkeypatch.setattr('mixer_jax.runlog.terminal._installed', Terminal(stream))
  monkeypatch.setattr('mixer_jax.runlog.terminal._REFRESH_SECONDS', 0)
  progress.terminal.live('step 1')
  assert list(progress.reading('abc', 10, 25, 'images of x/y', keep=keep)) == ['a', 'b', 'c']
  shown = [line.split('\r\x1b[K') for line in stream.getvalue().split('\n')]
  assert [line.split('  ')[0] for line in shown[0][1:5]] == [
    'step 1', '0 of 25 images of x/y', '10 of 25 images of x/y', '20 of 25 images of x/y',
  ]  # fmt: skip
  assert (len(shown), shown[-1][-1]) == ((2, '') if keep else (1, 'step 1'))


def test_a_log_has_a_line_of_reading_after_5_seconds_and_then_every_30(monkeypatch):
  now, stream = 0.0, io.StringIO()
  monkeypatch.setattr(progress.time, 'monotonic', lambda: now)
  monkeypatch.setattr('mixer_jax.runlog.terminal._installed', Terminal(stream))
  for _ in progress.reading(range(80), 1, 80):
    now += 1
  assert stream.getvalue().splitlines() == [
    f'{done} of 80 images  1 images/s  {duration(80 - done)} left' for done in (6, 37, 68)
  ]
