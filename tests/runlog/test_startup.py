"""The clock of a start, with a fake time."""

import pathlib
import re

from mixer_jax.runlog import startup


def test_parts_follow_each_other_and_add_up(monkeypatch):
  now = 100.0
  monkeypatch.setattr(startup.time, 'monotonic', lambda: now)
  clock = startup.Startup()
  for part, seconds in (('imports', 2.0), ('data', 1.0), ('imports', 0.5), ('first step', 0.25)):
    now += seconds
    clock.mark(part)
  assert clock.began == 100.0
  assert clock.summary() == 'first step after 3.8 s: imports 2.5, data 1.0, first step 0.2'
  assert clock.row() == {'imports': 2.5, 'data': 1.0, 'first_step': 0.25, 'total': 3.75}


def test_the_clock_of_the_machine_is_used_for_dates_alone():
  # It may be set back during a run: durations and deadlines take the monotonic clock.
  package = pathlib.Path(startup.__file__).parent.parent
  users = {
    path.name
    for path in package.rglob('*.py')
    if re.search(r'time\.time(_ns)?\(|\b(utc)?now\(', path.read_text())
  }
  assert users == {'listings.py', 'suite.py', 'tensorboard.py', 'training_run.py'}
