"""Time from the start of a process to its first step, by part."""

import time


class Startup:
  """A clock that starts when it is created; `mark` ends a part, the next one starts there.

  Attributes:
    began: `time.monotonic()` at the start.
    parts: name -> seconds, in the order of the first marks.
  """

  def __init__(self):
    self.began = self._last = time.monotonic()
    self.parts: dict[str, float] = {}

  def mark(self, part: str) -> None:
    """End a part: the time since the last mark is added to it."""
    now = time.monotonic()
    self.parts[part] = self.parts.get(part, 0.0) + now - self._last
    self._last = now

  def summary(self) -> str:
    """Return 'first step after 9.1 s: imports 2.0, data 1.1, …, first step 0.2'."""
    parts = ', '.join(f'{name} {seconds:.1f}' for name, seconds in self.parts.items())
    return f'first step after {sum(self.parts.values()):.1f} s: {parts}'

  def row(self) -> dict[str, float]:
    """Return the parts and their `total` in seconds, for `metrics.jsonl`."""
    parts = {**self.parts, 'total': sum(self.parts.values())}
    return {name.replace(' ', '_'): round(seconds, 3) for name, seconds in parts.items()}
