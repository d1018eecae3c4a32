"""CPU time of this process and of those that it started."""

import os
import pathlib
import time
from typing import NamedTuple

_PROC = pathlib.Path('/proc')


class CpuSeconds(NamedTuple):
  """CPU seconds so far.

  Attributes:
    own: of all threads of this process.
    children: of the running processes that this one started; None: only Linux tells.
  """

  own: float
  children: float | None

  def per_image(self, before: 'CpuSeconds', images: int) -> 'CpuSeconds':
    """Return the seconds since `before`, divided by a number of images."""
    children = None
    if self.children is not None and before.children is not None:
      children = (self.children - before.children) / images
    return CpuSeconds((self.own - before.own) / images, children)


def used() -> CpuSeconds:
  """Return the CPU seconds that were used so far."""
  return CpuSeconds(time.process_time(), _of_children())


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
