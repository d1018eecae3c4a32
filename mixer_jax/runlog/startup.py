"""How long a start took up to its first step, and what the time went to."""

import time


class Startup:
  """A clock that runs from when it is made; `mark` ends a part, which began where the last ended.

  Attributes:
    began: `time.monotonic()` of the beginning.
    parts: name -> seconds, in the order of their first marks.
  """

  def __init__(self):
    self.began = self._last = time.monotonic()
    self.parts: dict[str, float] = {}

  def mark(self, part: str) -> None:
    """What has happened since the last mark was this; adds up where it was marked before."""
    now = time.monotonic()
    self.parts[part] = self.parts.get(part, 0.0) + now - self._last
    self._last = now

  def told(self) -> str:
    """'first step after 9.1 s: imports 2.0, data 1.1, …, first step 0.2'."""
    parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self.parts.items())
    return f'first step after {sum(self.parts.values()):.1f} s: {parts}'

  def row(self) -> dict[str, float]:
    """For a file: the parts and their `total`, seconds."""
    parts = {**self.parts, 'total': sum(self.parts.values())}
    return {name.replace(' ', '_'): round(seconds, 3) for name, seconds in parts.items()}
