"""A file that grows during a run; local or in a bucket. One process writes it."""

import contextlib
import time

from etils import epath

from mixer_jax import storage
from mixer_jax.paths import is_remote

_REMOTE_FLUSH_SECONDS = 30


class AppendedFile:
  """Appends records, each completely or not at all.

  A local record is on disk when `append` returns. An object in a bucket cannot be appended to, so
  the complete file is written again, at most every half minute or where asked.

  Args:
    content: of the file until now, if it is in a bucket.

  Raises:
    StorageError: the disk or bucket refuses; the records before are intact.
  """

  def __init__(self, path: epath.Path, content: bytes = b''):
    self.path, self.is_local = path, not is_remote(path)
    self._content, self._flushed = content, time.monotonic()

  def append(self, record: bytes, *, flush: bool = False) -> None:
    """Append a record.

    Args:
      flush: write it now, also to a bucket.
    """
    if self.is_local:
      storage.write_retried(self.path, lambda: _append(self.path, record))
      return
    self._content += record
    if flush or time.monotonic() - self._flushed > _REMOTE_FLUSH_SECONDS:
      self.flush()

  def flush(self) -> None:
    """Write records that are held back."""
    if not self.is_local:
      storage.write_retried(self.path, lambda: self.path.write_bytes(self._content))
      self._flushed = time.monotonic()


def _append(path: epath.Path, record: bytes) -> None:
  with open(path, 'ab', buffering=0) as file:  # a buffer would write its rest when it is closed
    end = file.tell()
    try:
      while record:
        record = record[file.write(record) :]
    except OSError:
      with contextlib.suppress(OSError):
        file.truncate(end)
      raise
