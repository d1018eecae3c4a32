"""Worker processes that fill portions of batches in memory that this process maps too.

Python's lock is held for some 40 µs per image, so that threads of one process end at a rate that
a host with many cores is far above. Workers are started as new programs, since a fork of a process
with JAX's threads may hang. They end when their end of the connection is closed: with this process,
however that ends.
"""

import contextlib
import fcntl
import itertools
import logging
import os
import pathlib
import pickle
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from multiprocessing.connection import Connection
from typing import Any

import mixer_jax
from mixer_jax.data.examples import Examples, Remark
from mixer_jax.data.messages import Done, Job, Logged, Task, Unable
from mixer_jax.data.portions import Portion
from mixer_jax.data.slots import Slots
from mixer_jax.errors import StorageError, UserError, one_line

log = logging.getLogger(__name__)

_SILENT_SECONDS = 7
"""A worker that answers nothing for so long is taken to hang. Only time in which this process
waits for it counts: a computer may be suspended."""
_START_SECONDS = 60
"""Likewise before its first message."""
_PATIENT_ANSWERS = 30
"""Answers of a worker, one a second, after which a line says that its images take long."""
_END_SECONDS = 1
_KILLED_FOR_MEMORY = (signal.SIGKILL, signal.SIGABRT, signal.SIGBUS, signal.SIGSEGV)
"""Signals that end a process that gets no memory: from the kernel, and in libraries in C."""
_OURS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""Signals that may reach all processes of a run, and that its main process decides about."""


class Workers:
  """Worker processes with threads; see `portions.Team`.

  Args:
    slots: where batches are.
    count: number of processes.
    threads: threads of each.

  Raises:
    UserError: the examples cannot be sent to a process.
    StorageError: no process can be started.
  """

  def __init__(self, examples: Examples, slots: Slots, count: int, threads: int):
    job = _pickled(Job(examples, slots.layout, threads, count))
    self._tickets = itertools.count()
    self._workers: list[_Worker] = []
    self._end = weakref.finalize(self, _end, self._workers)  # also where the interpreter exits
    try:
      for _ in range(count):
        self._workers.append(_Worker(slots.file))
      for worker in self._workers:  # after all are started, since each reads when it has begun
        worker.send_bytes(job)
    except BaseException:
      self.close()
      raise

  def begin(self, portion: Portion) -> int:
    """Send the portion to the next worker."""
    ticket = next(self._tickets)
    self._worker(ticket).send(Task(ticket, portion.positions, portion.slot, portion.first))
    return ticket

  def finish(self, ticket: int) -> list[Remark]:
    """Wait for its worker.

    Raises:
      StorageError: the worker was killed, or does not answer.
    """
    return self._worker(ticket).result(ticket)

  def close(self) -> None:
    """End all workers."""
    self._end()

  def _worker(self, ticket: int) -> '_Worker':
    return self._workers[ticket % len(self._workers)]


def _end(workers: 'list[_Worker]') -> None:
  for worker in workers:
    worker.release()
  deadline = time.monotonic() + _END_SECONDS
  for worker in workers:
    worker.end(deadline)


class _Worker:
  """One process and the connection to it."""

  def __init__(self, file: int):
    try:
      ours, theirs = socket.socketpair()
      for option, seconds in (
        (socket.SO_SNDTIMEO, _START_SECONDS),  # a large job, while the process starts
        (socket.SO_RCVTIMEO, _SILENT_SECONDS),  # the rest of a message
      ):
        ours.setsockopt(socket.SOL_SOCKET, option, struct.pack('ll', seconds, 0))
      with theirs:
        self._connection = Connection(ours.detach())
        self._process = _started(theirs, file)
    except OSError as error:
      raise StorageError(
        f'a worker process of the input cannot be started: {one_line(error)}; set '
        '--config.data.workers=0 to read in threads'
      ) from error
    self._patience = _START_SECONDS
    self._done: dict[int, Done] = {}

  def send_bytes(self, data: bytes) -> None:
    """Send the job."""
    with self._faults():
      self._connection.send_bytes(data)

  def send(self, task: Task) -> None:
    """Send a task."""
    with self._faults():
      self._connection.send(task)

  def result(self, ticket: int) -> list[Remark]:
    """Return the remarks of a task when it is done; raises its error."""
    answers = 0
    while ticket not in self._done:
      message = self._receive()
      if message is None:
        answers += 1
        if answers % _PATIENT_ANSWERS == 0:
          log.warning('the input waits for images that worker %d reads', self._process.pid)
      elif isinstance(message, Logged):
        message.handle()
      elif isinstance(message, Unable):
        raise message.error
      elif isinstance(message, Done):
        self._done[message.ticket] = message
    done = self._done.pop(ticket)
    if done.error is not None:
      raise done.error
    return done.remarks

  def _receive(self) -> Any:
    """Return the next message; asks a silent worker whether it is alive."""
    with self._faults():
      for second in range(self._patience + 1):
        if self._connection.poll(1):
          self._patience = _SILENT_SECONDS
          return self._connection.recv()
        if not second:
          self._connection.send(None)
      raise BlockingIOError

  @contextlib.contextmanager
  def _faults(self) -> Iterator[None]:
    """Raise an error of the connection as one of the worker."""
    try:
      yield
    except BlockingIOError as error:  # it takes or sends nothing
      self._process.kill()
      raise StorageError(
        f'a worker process of the input (PID {self._process.pid}) does not answer: start the run '
        'again'
      ) from error
    except (EOFError, OSError) as error:
      raise self._lost() from error

  def _lost(self) -> StorageError:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_END_SECONDS)
    code = self._process.returncode
    how = f'signal {-code}' if code is not None and code < 0 else f'exit code {code}'
    memory = '; it may have run out of memory: fewer --config.data.threads or a smaller '
    return StorageError(
      f'a worker process of the input (PID {self._process.pid}) was lost ({how}): start the run '
      'again'
      + (f'{memory}--config.data.prefetch help' if -(code or 0) in _KILLED_FOR_MEMORY else '')
    )

  def release(self) -> None:
    """Let the process end: it does when the connection is closed."""
    self._connection.close()

  def end(self, deadline: float) -> None:
    """Wait until the process has ended; after the deadline it is killed."""
    try:
      self._process.wait(max(deadline - time.monotonic(), 0))
    except subprocess.TimeoutExpired:
      self._process.kill()
      with contextlib.suppress(subprocess.TimeoutExpired):  # it waits for a disk: nothing helps
        self._process.wait(_END_SECONDS)


def _started(theirs: socket.socket, file: int) -> subprocess.Popen:
  """Return a worker process with its end of a connection and the file of the slots."""
  # Not the numbers of standard streams, which may be closed in this process.
  passed = [fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in (theirs.fileno(), file)]
  # It inherits the mask: a signal to all processes must not end it, also while it starts.
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
  try:
    return subprocess.Popen(
      [sys.executable, '-P', '-m', 'mixer_jax.data.worker', *map(str, passed)],
      stdin=subprocess.DEVNULL,
      pass_fds=passed,
      # When its parent ends, the kernel continues a stopped process of a group of its own, which
      # could not end otherwise.
      process_group=0,
      env={**os.environ, 'PYTHONPATH': _search_path(), 'OPENBLAS_NUM_THREADS': '1'},
    )
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in passed:
      os.close(number)


def _pickled(job: Job) -> bytes:
  try:
    return pickle.dumps(job)
  except Exception as error:  # pickle raises many kinds
    raise UserError(
      f'the data set cannot be sent to worker processes ({one_line(error)}): set '
      '--config.data.workers=0'
    ) from error


def _search_path() -> str:
  """Return where this process finds modules, for a new one."""
  paths = [path or os.getcwd() for path in sys.path if isinstance(path, str)]
  root = str(pathlib.Path(mixer_jax.__file__).parent.parent)
  # It is absent if '' stood for it and the working directory is another one now.
  return os.pathsep.join(paths if root in paths else [root, *paths])
