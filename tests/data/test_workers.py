"""Worker processes of the input: the same batches, errors and log as without them; lost workers."""

import dataclasses
import itertools
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from mixer_jax.data import pipeline, workers
from mixer_jax.errors import StorageError, UserError
from mixer_jax.parallel import mesh as meshes
from tests.data.test_pipeline import CONFIG, PLAIN, assert_same, made

SHARED = pathlib.Path('/dev/shm')


class Unreadable(list):
  """Records of which one cannot be read now."""

  def __getitem__(self, index):
    if index == 5:
      raise StorageError('5.png cannot be read now')
    return super().__getitem__(index)


def training(config=CONFIG, source=None, batch_size=21, **kwargs):
  return pipeline.train_batches(
    source or made(40), config, image_size=12, batch_size=batch_size, seed=0, **kwargs
  )


def taken(batches, count: int) -> list[dict]:
  found = list(itertools.islice(batches, count))
  batches.close()
  return found


def with_workers(config=CONFIG, workers=2, threads=2):
  return dataclasses.replace(config, workers=workers, threads=threads, prefetch=40)


def pids() -> set[int]:
  """Return the processes that this one has started and that have not ended."""
  command = ['ps', '-o', 'pid=,args=', '--ppid', str(os.getpid())]
  lines = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
  return {int(line.split()[0]) for line in lines if 'mixer_jax.data.worker' in line}


def test_workers_change_nothing():
  before = set(SHARED.iterdir()) if SHARED.is_dir() else set()
  parts = [(pipeline.Process(i, 3), first) for i in range(3) for first in (0, 4)]
  for process, first in parts[:1] + parts[-1:]:
    kwargs = {'process': process, 'first_step': first}
    batches = training(with_workers(), **kwargs)
    found = [next(batches) for _ in range(9)]
    assert pids()
    assert not (set(SHARED.iterdir()) if SHARED.is_dir() else set()) - before
    batches.close()
    assert not pids()
    assert_same(found, taken(training(**kwargs), 9))  # also: no slot was used again


@pytest.mark.parametrize('batch_size', [1, 33])
def test_workers_change_nothing_in_an_evaluation(batch_size):
  config = with_workers(PLAIN, workers=1)
  source = made(5 * batch_size - 2, bad=(1,))
  evaluated = lambda config: list(
    pipeline.eval_batches(source, config, image_size=12, batch_size=batch_size)
  )
  assert_same(evaluated(config), evaluated(PLAIN))
  assert not pids()


@pytest.mark.filterwarnings('error')
def test_skipped_images_are_reported_once_and_in_order(caplog):
  source, found = made(40, bad=(3, 17, 18)), []
  for config in (PLAIN, with_workers(PLAIN)):
    skipped: set[str] = set()
    config = dataclasses.replace(config, undecodable='skip')
    with caplog.at_level(logging.WARNING):
      batches = taken(training(config, source, skipped=skipped), 6)
    found.append((batches, skipped, [record.getMessage() for record in caplog.records]))
    caplog.clear()
  (plain, *rest), (same, *others) = found
  assert_same(plain, same)
  assert rest == others
  assert len(rest[0]) == len(rest[1]) == 3


def test_an_error_is_raised_at_its_step():
  bad = made(40, bad=(7,))
  unreadable = dataclasses.replace(made(40), records=Unreadable(made(40).records))
  for source in (bad, unreadable):
    expected, batches = [], training(PLAIN, source)
    with pytest.raises(UserError) as alone:
      expected.extend(batches)
    found, batches = [], training(with_workers(PLAIN), source)
    with pytest.raises(UserError) as error:
      found.extend(batches)
    assert_same(expected, found)
    assert type(error.value) is type(alone.value)
    assert str(error.value) == str(alone.value)
    assert not pids()


def test_the_log_of_workers_is_that_of_the_process(caplog):
  source, config = made(4, bad=(1, 2)), with_workers(PLAIN, workers=1)
  with caplog.at_level(logging.INFO):
    list(pipeline.eval_batches(source, config, image_size=12, batch_size=4))
  found = [(record.name, record.getMessage().split(' (')[0]) for record in caplog.records]
  assert found == [('mixer_jax.data.examples', f'image made/train#{i}') for i in (1, 2)]


def test_batches_on_devices_keep_their_values():
  mesh = meshes.make_mesh()
  on_devices = [
    (step, meshes.put(mesh, batch))
    for step, batch in zip(range(12), training(with_workers(), batch_size=16), strict=False)
  ]
  expected = taken(training(batch_size=16), 12)
  for step, batch in on_devices:
    for name, values in expected[step].items():
      np.testing.assert_array_equal(jax.device_get(batch[name]), values)


def test_a_worker_that_is_killed_ends_the_input():
  batches = training(with_workers())
  next(batches)
  (pid, other) = pids()
  os.kill(pid, signal.SIGTERM)  # as all processes of a job may get it: the run decides
  next(batches)
  os.kill(pid, signal.SIGKILL)
  begun = time.monotonic()
  with pytest.raises(StorageError, match=rf'PID {pid}\) was lost \(signal 9\).*memory'):
    for _ in batches:
      pass
  assert time.monotonic() - begun < 10
  assert not pids()
  assert not pathlib.Path(f'/proc/{other}').exists()


def test_a_worker_that_does_not_answer_ends_the_input(monkeypatch):
  monkeypatch.setattr(workers, '_SILENT_SECONDS', 1)
  batches = training(with_workers())
  next(batches)
  pid = min(pids())
  os.kill(pid, signal.SIGSTOP)
  with pytest.raises(StorageError, match=rf'PID {pid}\) does not answer'):
    for _ in batches:
      pass
  assert not pids()


ORPHANS = """
import os, signal, sys
from tests.data.test_workers import pids, training, with_workers
batches = training(with_workers())
next(batches)
print(*pids(), flush=True)
for pid in list(pids())[:int(sys.argv[1])]:
  os.kill(pid, signal.SIGSTOP)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize('stopped', ['0', '1'])
def test_workers_end_with_a_process_that_is_killed(stopped):
  command = [sys.executable, '-c', ORPHANS, stopped]
  # A worker that is left would keep the pipe open.
  run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
  assert run.returncode == -signal.SIGKILL
  left = [pathlib.Path('/proc') / pid for pid in run.stdout.split()]
  assert len(left) == 2
  for _ in range(100):
    if not any(path.exists() for path in left):
      return
    time.sleep(0.1)
  raise AssertionError(left)


def test_a_source_that_cannot_be_sent_is_refused():
  source = dataclasses.replace(made(4), facts={'lambda': lambda: None})
  with pytest.raises(UserError, match=r'cannot be sent to worker processes .*workers=0'):
    next(training(with_workers(), source))


class Unknown(list):
  """Records of a class that a worker does not find."""

  __module__ = '__main__'


def test_a_source_that_workers_cannot_import_names_the_class(monkeypatch):
  monkeypatch.setattr(sys.modules['__main__'], 'Unknown', Unknown, raising=False)
  source = dataclasses.replace(made(40), records=Unknown(made(40).records))
  with pytest.raises(UserError, match=r"cannot open the data set \(.*'Unknown'.*workers=0"):
    next(training(with_workers(), source))
  assert not pids()


def test_nothing_is_started_before_the_first_batch():
  batches = training(with_workers())
  assert not pids()
  batches.close()


def test_a_worker_that_takes_no_message_ends_the_input(monkeypatch):
  """It is stopped before it reads, and the job is larger than what its socket holds."""
  theirs = []

  def stopped(end, _):
    theirs.append(end.dup())  # open, as it is in a process
    return subprocess.Popen(['sleep', '100'])

  monkeypatch.setattr(workers, '_START_SECONDS', 1)
  monkeypatch.setattr(workers, '_started', stopped)
  source = dataclasses.replace(made(4), facts={'large': bytes(2**24)})
  with pytest.raises(StorageError, match='does not answer'):
    next(training(with_workers(workers=1), source))
  (end,) = theirs
  end.close()
