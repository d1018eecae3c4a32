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

from mixer_jax.data.messages import Done, Logged, Task, Unable
from mixer_jax.errors import StorageError, UserError, one_line

if TYPE_CHECKING:  # most of the start-up time, in which the first thread answers already
  from mixer_jax.data.examples import Examples
  from mixer_jax.data.slots import OthersSlots

_NO_MEMORY = (
  'a worker process of the input has not enough memory: lower config.data.threads, '
  'config.data.workers or config.data.max_megapixels'
)
_SIGNS_OF_NO_MEMORY = ('allocate memory', 'map segment', 'start new thread')
"""Parts of messages of the dynamic loader and of Python, whose exceptions are of many types."""


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
    self.put(Logged(record))


def main(connection: Connection, file: int) -> NoReturn:
  """Fill portions until the other process closes the connection, or ends."""
  threading.excepthook = lambda _: os._exit(1)  # nobody would do the work of that thread
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
  except (MemoryError, RuntimeError) as error:  # no thread can be started
    outbox.put(Unable(_reason(error)))
    os._exit(1)


def _begin(pickled: bytes, file: int, tasks: queue.SimpleQueue, outbox: _Outbox) -> None:
  """Start the threads."""
  try:
    from mixer_jax.data.limits import share_memory
    from mixer_jax.data.slots import OthersSlots

    job = pickle.loads(pickled)
    share_memory(job.workers)
    slots = OthersSlots(job.layout, file)
    for _ in range(job.threads):
      args = (job.examples, slots, tasks, outbox)
      threading.Thread(target=_fill_all, args=args, daemon=True).start()
  except Exception as error:  # a module is missing, and many kinds
    outbox.put(Unable(_reason(error)))


def _reason(error: Exception) -> UserError:
  """Return the error to raise where the input is used if this worker cannot begin."""
  if isinstance(error, MemoryError) or any(sign in str(error) for sign in _SIGNS_OF_NO_MEMORY):
    return StorageError(_NO_MEMORY)
  return UserError(
    f'a worker process cannot open the data set ({one_line(error)}): set --config.data.workers=0'
  )


def _fill_all(
  examples: 'Examples', slots: 'OthersSlots', tasks: queue.SimpleQueue, outbox: _Outbox
) -> NoReturn:
  while True:
    outbox.put(_filled(examples, slots, tasks.get()))


def _filled(examples: 'Examples', slots: 'OthersSlots', task: Task) -> Done:
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
  if isinstance(error, MemoryError):
    return StorageError(_NO_MEMORY)
  if not isinstance(error, UserError):
    error.add_note(''.join(traceback.format_exception(error)))
  try:
    pickle.loads(pickle.dumps(error))
  except Exception:  # many kinds
    return RuntimeError(f'{type(error).__name__}: {one_line(error)}')
  return error


if __name__ == '__main__':
  main(Connection(int(sys.argv[1])), int(sys.argv[2]))
