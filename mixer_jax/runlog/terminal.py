"""The screen: log lines, and one live progress line that they do not tear apart."""

import logging
import sys
import time

_REFRESH_SECONDS = 0.2


class Terminal(logging.Handler):
  """Log records and a live last line, on stderr.

  On a terminal `live` rewrites its line in place; elsewhere it writes nothing, and
  `plain` writes lines that suit a log file.
  """

  def __init__(self, stream=None):
    super().__init__()
    self._stream = stream or sys.stderr
    self.is_live = self._stream.isatty()
    self.is_quiet = False
    """Whether progress is for another process to tell; log lines are shown all the same."""
    self._line, self._drawn = '', 0.0

  def emit(self, record: logging.LogRecord) -> None:
    self.say(self.format(record))

  def say(self, text: str) -> None:
    """A lasting line above the live one."""
    self._erase()
    self._stream.write(text + '\n')
    self._draw()

  def live(self, text: str) -> None:
    """Replaces the live line, a few times a second at most."""
    if not self.is_live or self.is_quiet:
      return
    now = time.monotonic()
    self._line = text
    if now - self._drawn >= _REFRESH_SECONDS:
      self._erase()
      self._draw()
      self._drawn = now

  def plain(self, text: str) -> None:
    """A line for a log; on a terminal the live line says it already."""
    if not self.is_live and not self.is_quiet:
      self.say(text)

  def finish(self) -> None:
    """Leaves the live line as it is and goes below it."""
    if self._line:
      self._erase()
      self._stream.write(self._line + '\n')
      self._line = ''
    self._stream.flush()

  def _erase(self):
    if self._line:
      self._stream.write('\r\x1b[K')

  def _draw(self):
    self._stream.write(self._line)
    self._stream.flush()


def duration(seconds: float) -> str:
  """'41 s', '12 min 05 s', '3 h 07 min'."""
  minutes, rest = divmod(round(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  if hours:
    return f'{hours} h {minutes:02d} min'
  return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'
