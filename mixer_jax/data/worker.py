"""A worker process of the input: `python -m mixer_jax.data.worker CONNECTION FILE`.

Both arguments are descriptors: of the connection, and of the file with the slots.
"""

import logging
import logging.handlers
import os
import pickle
import queue
import sys
import threading
import traceback
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:  # most of the start-up time, in which the first thread answers already
  from mixer_jax.data.examples import Examples
  from mixer_jax.data.messages import Done, Task
  from mixer_jax.data.slots import OthersSlots


class _Outbox:
  """Sends messages from several threads."""

  def __init__(self, connection: Connection):
    self._connection, self._lock = connection, threading.Lock()

  def put(self, message: Any) -> None:
    """Send a message; ends this process if there is nobody to take it."""
    with self._lock:
      try:
        self._connection.send(message)
      except OSError:
        os._exit(0)

  def put_nowait(self, record: logging.LogRecord) -> None:
    """Send a line of the log."""
    from mixer_jax.data.messages import Logged

    self.put(Logged(record))


def main(connection: Connection, file: int) -> NoReturn:
  """Fill portions until the other process closes the connection, or ends."""
  outbox, tasks = _Outbox(connection), queue.SimpleQueue()
  outbox.put(None)
  logging.getLogger().addHandler(logging.handlers.QueueHandler(outbox))  # pyright: ignore[reportArgumentType]
  logging.getLogger().setLevel(logging.INFO)
  try:
    job = connection.recv_bytes()
    threading.Thread(target=_begin, args=(job, file, tasks, outbox), daemon=True).start()
    while True:  # this thread answers while the others import, read and decode
      message = connection.recv()
      if message is None:
        outbox.put(None)
      else:
        tasks.put(message)
  except (EOFError, OSError):
    os._exit(0)


def _begin(pickled: bytes, file: int, tasks: queue.SimpleQueue, outbox: _Outbox) -> None:
  """Start the threads."""
  from mixer_jax.data.limits import share_memory
  from mixer_jax.data.messages import Done
  from mixer_jax.data.slots import OthersSlots

  try:
    job = pickle.loads(pickled)
  except Exception as error:  # a module is missing, and many kinds
    error = _sendable(error)
    while True:
      outbox.put(Done(tasks.get().ticket, [], error))
  share_memory(job.workers)
  slots = OthersSlots(job.layout, file)
  for _ in range(job.threads):
    args = (job.examples, slots, tasks, outbox)
    threading.Thread(target=_fill_all, args=args, daemon=True).start()


def _fill_all(
  examples: 'Examples', slots: 'OthersSlots', tasks: queue.SimpleQueue, outbox: _Outbox
) -> NoReturn:
  while True:
    outbox.put(_filled(examples, slots, tasks.get()))


def _filled(examples: 'Examples', slots: 'OthersSlots', task: 'Task') -> 'Done':
  from mixer_jax.data.messages import Done

  rows = slice(task.first, task.first + len(task.positions))
  try:
    batch = {name: values[rows] for name, values in slots.batch(task.slot).items()}
    return Done(task.ticket, examples.fill(task.positions, batch))
  except Exception as error:
    return Done(task.ticket, [], _sendable(error))


def _sendable(error: Exception) -> Exception:
  """Return an error that another process can raise, with the traceback of this one if it is a bug.

  The causes of an error stay here.
  """
  from mixer_jax.errors import StorageError, UserError, one_line

  if isinstance(error, MemoryError):
    return StorageError(
      'a worker process of the input has not enough memory: lower config.data.threads or '
      'config.data.max_megapixels'
    )
  if not isinstance(error, UserError):
    error.add_note(''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:  # many kinds
    return RuntimeError(f'{type(error).__name__}: {one_line(error)}')
  return error


if __name__ == '__main__':
  main(Connection(int(sys.argv[1])), int(sys.argv[2]))
