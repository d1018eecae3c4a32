"""Errors of reading and writing, apart from wrong input and from damaged bytes.

A read that fails may work a moment later: it is retried, and then a `StorageError` (exit code 74),
after which a supervisor starts the same command again. Only bytes that were read can be damaged.
"""

import contextlib
import errno
import os
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from mixer_jax.errors import StorageError, one_line

T = TypeVar('T')

RETRY_SETTING = 'MIXER_JAX_RETRY_SECONDS'
"""Variable: seconds for which a read or write that fails is retried; default 15."""

_NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)

_PLACE_IS_WRONG = {
  errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
  errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
}  # fmt: skip
_LASTING = {errno.EROFS, errno.EFBIG}  # they do not pass within seconds


def read_retried(name, read: Callable[[], T]) -> T:
  """Return `read()`; its errors of reading are retried with growing pauses.

  Args:
    name: what is read, for the message.
    read: reads and does not parse. A file that is not there is not retried.

  Raises:
    StorageError: it still fails after `RETRY_SETTING` seconds.
    FileNotFoundError, NotADirectoryError, IsADirectoryError: from `read`.
  """
  end = time.monotonic() + retry_seconds()
  pause = 0.1
  while True:
    try:
      return read()
    except _NOT_THERE:
      raise
    except OSError as error:
      if time.monotonic() + pause > end:
        raise StorageError(f'{name} cannot be read now: {reason(error)}; try again') from error
      time.sleep(pause)
      pause = min(2 * pause, 4.0)


def write_retried(name, write: Callable[[], object]) -> None:
  """Call `write`; errors of the disk or bucket are retried with growing pauses.

  Args:
    name: file that is written, for the message.
    write: writes all of it; after an error it is called again.

  Raises:
    StorageError: it still fails after `RETRY_SETTING` seconds, or the disk is read-only.
    OSError: the place is wrong, as in `writing`.
  """
  end = time.monotonic() + retry_seconds()
  pause = 0.1
  while True:
    with writing(name):
      try:
        write()
        return
      except OSError as error:
        may_pass = error.errno not in _PLACE_IS_WRONG | _LASTING
        if not may_pass or time.monotonic() + pause > end:
          raise
    time.sleep(pause)
    pause = min(2 * pause, 4.0)


def retry_seconds() -> float:
  """Return the seconds for which a failing read or write is retried."""
  try:
    return max(0.0, float(os.environ.get(RETRY_SETTING, '15')))
  except ValueError:
    return 15.0


@contextlib.contextmanager
def writing(name) -> Iterator[None]:
  """Turn an error of the disk or bucket into a `StorageError` that names the file.

  Errors that say that the place is wrong (no such folder, no permission) remain `OSError`s.

  Args:
    name: file that is written, for the message.
  """
  try:
    yield
  except OSError as error:
    if error.errno in _PLACE_IS_WRONG:
      raise
    raise StorageError(f'{name} cannot be written now: {reason(error)}') from error


def reason(error: OSError) -> str:
  """Return what the operating system or a bucket's client says, on one line."""
  return error.strerror or one_line(error)
