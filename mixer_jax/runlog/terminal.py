"""The terminal: log lines above one live progress line.

The command line installs a `Terminal`; library code reports progress through `live`, `plain` and
`finish`. In a notebook or script without one, `plain` lines go to the logger and `live` ones are
dropped.
"""

import logging
import sys
import time

from mixer_jax.errors import printable, printable_lines

log = logging.getLogger(__name__)

_REFRESH_SECONDS = 0.2


class Terminal(logging.Handler):
  """Log records above a live last line, on stderr.

  On a terminal `live` rewrites its line in place. Otherwise it writes nothing, and `plain` writes
  lines that suit a log file.
  """

  def __init__(self, stream=None):
    super().__init__()
    self._stream = stream or sys.stderr
    self.is_live = self._stream.isatty()
    self.is_quiet = False
    """True if another process shows the progress; log lines are still shown."""
    self.line, self._drawn = '', 0.0

  def emit(self, record: logging.LogRecord) -> None:
    self.say(self.format(record))

  def say(self, text: str) -> None:
    """Print text above the live line; control characters, as in names of files, are escaped."""
    self._erase()
    self._stream.write(printable_lines(text) + '\n')
    self._draw()

  def live(self, text: str) -> None:
    """Replace the live line, at most a few times per second."""
    if not self.is_live or self.is_quiet:
      return
    now = time.monotonic()
    self.line = printable(text)
    if now - self._drawn >= _REFRESH_SECONDS:
      self._erase()
      self._draw()
      self._drawn = now

  def plain(self, text: str) -> None:
    """Print a progress line to a log file; a terminal has the live line instead."""
    if not self.is_live and not self.is_quiet:
      self.say(text)

  def finish(self) -> None:
    """Keep the live line and continue below it."""
    if self.line:
      self._erase()
      self._stream.write(self.line + '\n')
      self.line = ''
    self._stream.flush()

  def restore(self, line: str) -> None:
    """Show an earlier live line again; '': none."""
    self._erase()
    self.line = line
    self._draw()

  def _erase(self):
    if self.line:
      self._stream.write('\r\x1b[K')

  def _draw(self):
    self._stream.write(self.line)
    self._stream.flush()


_installed: Terminal | None = None


def install(terminal: Terminal | None) -> None:
  """Show progress on `terminal` from now on; None: on no terminal."""
  global _installed
  _installed = terminal


def live(text: str) -> None:
  """Replace the live line of the installed terminal."""
  if _installed:
    _installed.live(text)


def plain(text: str) -> None:
  """Print a progress line if there is no live one."""
  if _installed:
    _installed.plain(text)
  else:
    log.info('%s', text)


def finish() -> None:
  """Continue below the live line."""
  if _installed:
    _installed.finish()


def line() -> str:
  """Return the live line; '' if there is none."""
  return _installed.line if _installed else ''


def restore(line: str) -> None:
  """Show an earlier live line again; '': none."""
  if _installed:
    _installed.restore(line)


def silence() -> None:
  """Show no more progress, because another process does."""
  if _installed:
    _installed.is_quiet = True


def duration(seconds: float) -> str:
  """Format seconds as '41 s', '12 min 05 s' or '3 h 07 min'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'
