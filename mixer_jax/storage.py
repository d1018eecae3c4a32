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

from mixer_jax.errors import StorageError, UserError, one_line

T = TypeVar('T')

RETRY_SETTING = 'MIXER_JAX_RETRY_SECONDS'
"""Variable: seconds for which a read or write that fails is retried; default 15."""

NOT_THERE = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
"""Errors of a path that is wrong, which no later try mends."""

_CLIENTS = ('aiohttp', 'botocore', 'gcsfs', 'google', 'requests', 's3fs', 'urllib3')
"""Packages of the buckets' clients; not all of their errors are `OSError`s."""

_SMALL = 64 * 2**20
"""Maximum bytes of a file that describes others, such as the metadata of a state."""

PLACE_IS_WRONG = {
  errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST,
  errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL,
}  # fmt: skip
"""Errors that the user can mend by another place."""
_NO_PATH = {errno.ENAMETOOLONG, errno.ELOOP}
_LASTING = {errno.EROFS, errno.EFBIG}  # they do not pass within seconds


def read_retried(name, read: Callable[[], T], *, seconds: float | None = None) -> T:
  """Return `read()`; its errors of reading are retried with growing pauses.

  Args:
    name: what is read, for the message.
    read: reads and does not parse. A file that is not there is not retried.
    seconds: for which it is retried; None: `RETRY_SETTING`.

  Raises:
    StorageError: it still fails after these seconds.
    FileNotFoundError, NotADirectoryError, IsADirectoryError: from `read`.
  """
  for is_last in _tries(seconds):
    try:
      return read()
    except Exception as error:
      failed = as_os_error(error)
      if failed is None or isinstance(failed, NOT_THERE) or failed.errno in _NO_PATH:
        raise
      if is_last:
        raise StorageError(f'{name} cannot be read now: {reason(failed)}; try again') from error
  raise AssertionError  # the last try returns or raises


def write_retried(name, write: Callable[[], object]) -> None:
  """Call `write`; errors of the disk or bucket are retried with growing pauses.

  Args:
    name: file that is written, for the message.
    write: writes all of it; after an error it is called again.

  Raises:
    StorageError: it still fails after `RETRY_SETTING` seconds, or the disk is read-only.
    OSError: the place is wrong, as in `writing`.
  """
  for is_last in _tries():
    with writing(name):
      try:
        write()
        return
      except Exception as error:
        failed = as_os_error(error)
        if is_last or failed is None or isinstance(failed, NOT_THERE):
          raise
        if failed.errno in PLACE_IS_WRONG | _LASTING:
          raise


def _tries(seconds: float | None = None) -> Iterator[bool]:
  """Yield for each try, after growing pauses, whether it is the last in `seconds`."""
  seconds = retry_seconds() if seconds is None else seconds
  end, pause = time.monotonic() + seconds, 0.1
  while time.monotonic() + pause <= end:
    yield False
    time.sleep(pause)
    pause = min(2 * pause, 4.0)
  yield True


def read_file(path, limit: int | None = _SMALL) -> bytes:
  """Return the bytes of a file that describes others; see `read_retried`.

  Args:
    path: local or in a bucket.
    limit: maximum bytes; None: any number.

  Raises:
    UserError: it is no regular file (a pipe would block, a device has no end), or too long.
  """
  from etils import epath  # bench and analysis run without it

  path = epath.Path(path)

  def read() -> bytes:
    if '://' not in str(path) and path.exists() and not os.path.isfile(path):
      if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
      raise UserError(f'{path} is not a regular file')
    with path.open('rb') as file:
      data = file.read() if limit is None else file.read(limit + 1)
    if limit is not None and len(data) > limit:
      raise UserError(f'{path} is longer than {limit >> 20} MiB: it is not what its name says')
    return data

  return read_retried(path, read)


def exists(path) -> bool:
  """Return True for a file or folder that is there; see `read_retried`.

  The clients of buckets answer False where they may not look.
  """
  from etils import epath

  try:
    read_retried(path, epath.Path(path).stat if '://' in str(path) else lambda: os.stat(path))
  except NOT_THERE:
    return False
  return True


def names_in(folder) -> list[str]:
  """Return the names in a folder, [] if it does not exist; see `read_retried`."""
  from etils import epath

  folder = epath.Path(folder)
  try:
    return read_retried(folder, lambda: [entry.name for entry in folder.iterdir()])
  except NOT_THERE:
    return []


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
  except Exception as error:
    failed = as_os_error(error)
    if isinstance(failed, FileNotFoundError) and not failed.filename:  # of a bucket's client
      raise FileNotFoundError(errno.ENOENT, 'no such bucket or folder', str(name)) from error
    if failed is None or failed.errno in PLACE_IS_WRONG:
      raise
    raise StorageError(f'{name} cannot be written now: {reason(failed)}') from error


def as_os_error(error: Exception) -> OSError | None:
  """Return an error of the system or of a bucket's client as an `OSError`; None for others."""
  if isinstance(error, OSError):
    return error
  if type(error).__module__.partition('.')[0] not in _CLIENTS:
    return None
  if str(getattr(error, 'code', getattr(error, 'status', ''))) == '404':
    return FileNotFoundError(errno.ENOENT, one_line(error))
  return OSError(errno.EIO, one_line(error))


def reason(error: OSError) -> str:
  """Return what the operating system or a bucket's client says, on one line."""
  return error.strerror or one_line(error)
