"""Worker processes that fill portions of batches in memory that this process maps too.

Python's lock is held for some 40 µs per image, so that threads of one process end at a rate that
a host with many cores is far above. Workers are started as new programs, since a fork of a process
with JAX's threads may hang. They end when their end of the connection is closed: with this process,
however that ends.
"""

import contextlib
import itertools
import logging
import os
import pickle
import signal
import subprocess
import sys
from multiprocessing import connection
from typing import Any

from mixer_jax.data.examples import Examples, Remark
from mixer_jax.data.messages import Done, Job, Logged, Task
from mixer_jax.data.portions import Portion
from mixer_jax.data.slots import Slots
from mixer_jax.errors import StorageError, UserError, one_line

log = logging.getLogger(__name__)

_SILENT_SECONDS = 8
"""A worker that answers nothing for so long is taken to hang. Only time in which this process
waits for it counts: a computer may be suspended."""
_START_SECONDS = 60
"""Likewise before its first message."""
_PATIENT_ANSWERS = 30
"""Answers of a worker, one a second, after which a line says that its images take long."""
_END_SECONDS = 2
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
    for worker in self._workers:
      worker.release()
    for worker in self._workers:
      worker.end()

  def _worker(self, ticket: int) -> '_Worker':
    return self._workers[ticket % len(self._workers)]


class _Worker:
  """One process and the connection to it."""

  def __init__(self, file: int):
    ours, theirs = connection.Pipe()
    with theirs:
      command = (sys.executable, '-P', '-m', 'mixer_jax.data.worker', theirs.fileno(), file)
      try:
        # It inherits the mask: a signal to all processes must not end it, also while it starts.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _OURS)
        try:
          self._process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(), file),
            env={**os.environ, 'PYTHONPATH': _search_path(), 'OPENBLAS_NUM_THREADS': '1'},
          )
        finally:
          signal.pthread_sigmask(signal.SIG_SETMASK, before)
      except OSError as error:
        ours.close()
        raise StorageError(
          f'a worker process of the input cannot be started: {one_line(error)}; set '
          '--config.data.workers=0 to read in threads'
        ) from error
    self._connection = ours
    self._patience = _START_SECONDS
    self._done: dict[int, Done] = {}

  def send_bytes(self, data: bytes) -> None:
    """Send the job."""
    try:
      self._connection.send_bytes(data)
    except OSError as error:
      raise self._lost() from error

  def send(self, task: Task) -> None:
    """Send a task."""
    try:
      self._connection.send(task)
    except OSError as error:
      raise self._lost() from error

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
      elif isinstance(message, Done):
        self._done[message.ticket] = message
    done = self._done.pop(ticket)
    if done.error is not None:
      raise done.error
    return done.remarks

  def _receive(self) -> Any:
    """Return the next message; asks a silent worker whether it is alive."""
    for second in range(self._patience + 1):
      try:
        if self._connection.poll(1):
          self._patience = _SILENT_SECONDS
          return self._connection.recv()
        if not second:
          self._connection.send(None)
      except (EOFError, OSError) as error:
        raise self._lost() from error
    raise StorageError(
      f'a worker process of the input (PID {self._process.pid}) does not answer: start the run '
      'again'
    )

  def _lost(self) -> StorageError:
    with contextlib.suppress(subprocess.TimeoutExpired):
      self._process.wait(_END_SECONDS)
    code = self._process.returncode
    how = f'signal {-code}' if code is not None and code < 0 else f'exit code {code}'
    memory = '; it may have run out of memory, which fewer --config.data.threads or a smaller '
    return StorageError(
      f'a worker process of the input (PID {self._process.pid}) was lost ({how}): start the run '
      'again' + (f'{memory}--config.data.prefetch help' if code == -signal.SIGKILL else '')
    )

  def release(self) -> None:
    """Let the process end: it does when the connection is closed."""
    self._connection.close()

  def end(self) -> None:
    """Wait until the process has ended."""
    try:
      self._process.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()


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
  return os.pathsep.join(path or os.getcwd() for path in sys.path)
