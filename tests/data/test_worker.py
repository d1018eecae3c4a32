"""A worker process alone: what it says when it cannot begin or continue."""

import pathlib
import pickle
import queue
import subprocess
import sys
from multiprocessing.connection import Pipe

import numpy as np
import pytest

from mixer_jax.data import worker
from mixer_jax.data.messages import Done, Job, Task, Unable
from mixer_jax.data.slots import Column, Layout, OthersSlots, Slots
from mixer_jax.errors import StorageError, UserError

ROOT = pathlib.Path(__file__).parent.parent.parent
LAYOUT = Layout(4, {'label': Column((), np.dtype(np.int32))})
NOT_NEEDED = (
  *('jax', 'jaxlib', 'flax', 'grain', 'tensorflow', 'tensorflow_datasets', 'matplotlib'),
  *('scipy', 'sklearn', 'absl', 'ml_collections', 'orbax'),
)


class Broken:
  """Examples that cannot be filled, or not even be read from a message."""

  def __init__(self, error: Exception, *, early: bool = False):
    self.error, self.early = error, early

  def __reduce__(self):
    return (_raise if self.early else Broken), (self.error,)

  def fill(self, *_):
    raise self.error


def _raise(error: Exception):
  raise error


class Outbox(list):
  put = list.append


def begun(examples, threads=0) -> list:
  """Return what a worker sends at its start."""
  outbox = Outbox()
  job = pickle.dumps(Job(examples, LAYOUT, threads, 1))
  worker._begin(job, -1, queue.SimpleQueue(), outbox)  # pyright: ignore[reportArgumentType]
  return outbox


@pytest.mark.parametrize(
  'error',
  [
    MemoryError(),
    ImportError('libopenblas.so: failed to map segment from shared object'),
    RuntimeError("can't start new thread"),
    OSError(12, 'Cannot allocate memory'),
  ],
  ids=lambda error: type(error).__name__,
)
def test_no_memory_at_the_start_names_the_way_out(error):
  (message,) = begun(Broken(error, early=True))
  assert isinstance(message, Unable)
  assert isinstance(message.error, StorageError)
  assert 'config.data.threads' in str(message.error)
  pickle.loads(pickle.dumps(message))


def test_any_other_error_at_the_start_names_the_way_out():
  (message,) = begun(Broken(ImportError('no module zstd'), early=True))
  assert isinstance(message, Unable)
  assert type(message.error) is UserError
  assert 'no module zstd): set --config.data.workers=0' in str(message.error)


@pytest.mark.parametrize(
  ('error', 'kind', 'text'),
  [
    (MemoryError(), StorageError, 'not enough memory'),
    (UserError('no label'), UserError, 'no label'),
    (ZeroDivisionError('a bug'), ZeroDivisionError, 'a bug'),
    (type('Local', (Exception,), {})('unknown there'), RuntimeError, 'Local: unknown there'),
  ],
  ids=['memory', 'user', 'bug', 'class'],
)
def test_errors_of_filling_are_sent(error, kind, text):
  slots = Slots(LAYOUT, shared=True)
  number, _ = slots.take()
  done = worker._filled(
    Broken(error),  # pyright: ignore[reportArgumentType]
    OthersSlots(LAYOUT, slots.file),
    Task(3, range(2), number, 0),
  )
  done = pickle.loads(pickle.dumps(done))
  assert isinstance(done, Done)
  assert done.ticket == 3
  assert type(done.error) is kind
  assert text in str(done.error)


def test_a_worker_imports_what_reading_needs_alone():
  code = 'import mixer_jax.data.worker, mixer_jax.data.examples, mixer_jax.data.limits, sys\n'
  code += f'print([name for name in {NOT_NEEDED} if name in sys.modules])'
  run = subprocess.run([sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True)
  assert (run.stdout.strip(), run.stderr) == ('[]', '')


def test_a_thread_that_fails_ends_the_process():
  """Its work would be waited for without end, as the process answers."""
  ours, theirs = Pipe()
  code = f"""
import os, threading
from multiprocessing.connection import Connection
from mixer_jax.data import worker
def fail(*_):
  raise ZeroDivisionError
worker._begin = fail
worker.main(Connection({theirs.fileno()}), -1)"""
  with ours, theirs:
    process = subprocess.Popen(
      [sys.executable, '-c', code], pass_fds=[theirs.fileno()], cwd=ROOT, stderr=subprocess.PIPE
    )
    ours.send_bytes(b'job')
    _, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (1, b'')


def test_a_connection_that_is_closed_ends_the_process():
  ours, theirs = Pipe()
  with ours, theirs:
    slots = Slots(LAYOUT, shared=True)
    process = subprocess.Popen(
      [sys.executable, '-m', 'mixer_jax.data.worker', str(theirs.fileno()), str(slots.file)],
      pass_fds=[theirs.fileno(), slots.file],
      stderr=subprocess.PIPE,
      cwd=ROOT,
    )
  _, errors = process.communicate(timeout=60)
  assert (process.returncode, errors) == (0, b'')
