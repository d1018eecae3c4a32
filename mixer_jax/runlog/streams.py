"""Standard streams that may be closed, full, or read by nobody, without an end to the work.

A long command prints what its files hold as well, so that an output that fails is discarded. The
results of a short command are its output: there such an error ends it.
"""

import io
import os
import select
import sys

from mixer_jax.errors import StorageError

_lost: dict[str, str] = {}
_raises = True  # for stdout


def open_streams(*, output_is_result: bool) -> None:
  """Replace `sys.stdout` and `sys.stderr`; streams that were closed at the start lead nowhere.

  Args:
    output_is_result: errors of stdout are raised, not ignored.
  """
  global _raises
  _open_closed()
  _raises = output_is_result
  sys.stdout = _text('stdout', 1, sys.stdout, raises=_raises)
  sys.stderr = _text('stderr', 2, sys.stderr, raises=False)


def move_stdout(number: int) -> None:
  """Let `sys.stdout` write to this file descriptor."""
  sys.stdout = _text('stdout', number, sys.stdout, raises=_raises)


def lost() -> dict[str, str]:
  """Return the streams of which something was discarded, with the first reason."""
  return dict(_lost)


def _open_closed() -> None:
  """Open the null device in place of closed streams, before another file gets their number."""
  for number in range(3):
    try:
      os.fstat(number)
    except OSError:
      os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number


class _Stream(io.FileIO):
  """A stream whose errors of writing are ignored, or raised as a `StorageError`."""

  def __init__(self, name: str, number: int, *, raises: bool):
    super().__init__(number, 'wb', closefd=False)
    self._title, self._raises = name, raises

  def write(self, data, /) -> int:
    try:
      while (written := super().write(data)) is None:  # another program made it non-blocking
        select.select([], [self.fileno()], [])
      return written
    except BrokenPipeError as error:
      if self._raises:
        raise
      return self._discard(data, error)
    except OSError as error:
      if self._raises:
        raise StorageError(f'{self._title} cannot be written now: {error.strerror}') from error
      return self._discard(data, error)

  def _discard(self, data, error: OSError) -> int:
    _lost.setdefault(self._title, error.strerror or 'closed')
    return len(data)


def _text(name: str, number: int, old, *, raises: bool) -> io.TextIOWrapper:
  binary = io.BufferedWriter(_Stream(name, number, raises=raises))
  encoding = old.encoding if old else 'utf-8'
  by_line = name == 'stderr' or binary.isatty()
  # Not every encoding has all characters, such as '…'.
  return io.TextIOWrapper(binary, encoding, 'backslashreplace', line_buffering=by_line)
