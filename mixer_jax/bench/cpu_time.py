"""CPU time of this process and of those that it started."""

import os
import pathlib
import time
from typing import NamedTuple

_PROC = pathlib.Path('/proc')


class CpuSeconds(NamedTuple):
  """CPU seconds per image.

  Attributes:
    own: of all threads of this process.
    children: of the running processes that this one started; None on systems other than Linux.
  """

  own: float
  children: float | None


class Stopwatch:
  """Measures CPU time from its creation on."""

  def __init__(self):
    self._children = _of_children()
    self._own = time.process_time()  # last, since the other takes time itself

  def per_image(self, images: int) -> CpuSeconds:
    """Return the seconds so far, divided by a number of images."""
    own, children = time.process_time() - self._own, _of_children()
    if children is None or self._children is None:
      return CpuSeconds(own / images, None)
    return CpuSeconds(own / images, (children - self._children) / images)


def _of_children() -> float | None:
  if not (_PROC / 'self' / 'stat').exists():
    return None
  ticks = 0
  for folder in _PROC.glob('[0-9]*'):
    try:
      stat = (folder / 'stat').read_text()
    except OSError:  # it has ended
      continue
    # The name of the program is in brackets, and may contain any character.
    fields = stat.rpartition(')')[2].split()
    if int(fields[1]) == os.getpid():
      ticks += int(fields[11]) + int(fields[12])
  return ticks / os.sysconf('SC_CLK_TCK')
