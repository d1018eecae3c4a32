"""Worker processes and threads of the input end in every way in which their use can end."""

import dataclasses
import gc
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import pytest

from mixer_jax.data import workers
from mixer_jax.errors import StorageError
from tests.data.test_pipeline import PLAIN
from tests.data.test_workers import pids, training, with_workers
from tests.helpers import train_runs

IN_THREADS = dataclasses.replace(PLAIN, threads=3)
BEGIN = """
from tests.data.test_workers import pids, training, with_workers
from tests.data.test_workers_end import IN_THREADS
batches = training({config})
next(batches)
"""


def descriptors() -> int:
  gc.collect()
  return len(os.listdir('/proc/self/fd'))


def input_threads() -> list[str]:
  return [thread.name for thread in threading.enumerate() if thread.name.startswith('input')]


def test_threads_end_with_their_iterator():
  before = descriptors()
  for is_closed in (True, False):
    batches = training(IN_THREADS)
    next(batches)
    assert input_threads()
    if is_closed:
      batches.close()
    del batches
    for _ in range(100):
      if not input_threads():
        break
      time.sleep(0.05)
    assert not input_threads()
  assert descriptors() == before


def test_workers_end_with_an_iterator_that_is_dropped():
  before = descriptors()
  batches = training(with_workers(workers=1))
  next(batches)
  assert len(pids()) == 1
  del batches
  assert not pids()
  assert descriptors() == before


@pytest.mark.long
def test_nothing_is_left_after_50_iterators():
  next(training(with_workers()))
  before = descriptors()
  for _ in range(50):
    batches = training(with_workers())
    next(batches)
    batches.close()
  assert not pids()
  assert descriptors() == before


def run_python(code: str, redirections: str = '') -> subprocess.CompletedProcess[str]:
  command = [f'exec "$@" {redirections}', 'sh', sys.executable, '-W', 'error', '-X', 'dev', '-c']
  return subprocess.run(
    ['sh', '-c', *command, code], cwd=train_runs.ROOT, capture_output=True, text=True, check=False
  )


@pytest.mark.long
@pytest.mark.parametrize('config', ['with_workers()', 'IN_THREADS'])
def test_an_iterator_may_live_until_the_interpreter_exits(config):
  run = run_python(BEGIN.format(config=config))
  assert (run.returncode, run.stdout, run.stderr) == (0, '', '')


@pytest.mark.long
@pytest.mark.parametrize('redirections', ['<&-', '<&- >&-'])
def test_standard_streams_may_be_closed(redirections):
  run = run_python(BEGIN.format(config='with_workers()'), redirections)
  assert (run.returncode, run.stderr) == (0, '')


@pytest.mark.long
def test_workers_that_are_stopped_are_all_ended_within_ten_seconds():
  batches = training(with_workers(workers=4))
  next(batches)
  stopped = pids()
  assert len(stopped) == 4
  for pid in stopped:
    os.kill(pid, signal.SIGSTOP)
  begun = time.monotonic()
  with pytest.raises(StorageError, match='does not answer'):
    for _ in batches:
      pass
  assert time.monotonic() - begun < workers._SILENT_SECONDS + 1 + workers._END_SECONDS + 2
  assert not pids()


def with_workers_of(parent: int) -> set[int]:
  lines = subprocess.run(
    ['ps', '-o', 'pid=,args=', '--ppid', str(parent)], capture_output=True, text=True, check=False
  ).stdout.splitlines()
  return {int(line.split()[0]) for line in lines if 'mixer_jax.data.worker' in line}


@pytest.mark.long
@pytest.mark.parametrize('number', ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGUSR1', 'SIGKILL'])
def test_a_signal_while_workers_start(number, tmp_path, digits_dir):
  """It reaches all processes of the run; its main process decides, and none is left."""
  process = subprocess.Popen(
    [
      *(sys.executable, '-m', 'mixer_jax'),
      *train_runs.flags(tmp_path / 'run', digits_dir, '--config.total_steps=100000'),
      *('--config.data.workers=2', '--config.data.threads=2'),
    ],
    cwd=train_runs.ROOT,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    start_new_session=True,
  )
  deadline = time.monotonic() + 120
  while len(found := with_workers_of(process.pid)) < 2 and time.monotonic() < deadline:
    time.sleep(0.01)
  if number == 'SIGKILL':
    process.kill()  # the workers notice it alone
  else:
    os.killpg(process.pid, signal.Signals[number])
  output, _ = process.communicate(timeout=120)
  assert len(found) == 2
  assert process.returncode == {'SIGKILL': -9, 'SIGINT': 130}.get(number, 75), output
  assert 'Traceback' not in output
  assert number == 'SIGKILL' or 'its state is saved' in output
  for _ in range(100):
    if not any(pathlib.Path(f'/proc/{pid}').exists() for pid in found):
      return
    time.sleep(0.1)
  raise AssertionError(found)


@pytest.mark.long
def test_a_small_folder_of_shared_memory_is_enough(tmp_path, digits_dir):
  mounted = 'mount -t tmpfs -o size=64k tmpfs /dev/shm'
  if subprocess.run(['unshare', '-m', 'sh', '-c', mounted], check=False).returncode:
    pytest.skip('no file system can be mounted here')
  flags = train_runs.flags(tmp_path / 'run', digits_dir, '--config.data.workers=2')
  run = subprocess.run(
    [
      *('unshare', '-m', 'sh', '-c', f'{mounted} && "$@" && ls -A /dev/shm >&2', 'sh'),
      *(sys.executable, '-m', 'mixer_jax', *flags),
    ],
    cwd=train_runs.ROOT,
    capture_output=True,
    text=True,
    check=False,
  )
  assert run.returncode == 0, run.stderr
  assert 'Traceback' not in run.stderr
  assert run.stderr.rstrip().splitlines()[-1].startswith('done: ')  # the folder is empty
