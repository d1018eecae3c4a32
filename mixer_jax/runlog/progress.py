"""Progress of a run: the live line, rows of `metrics.jsonl`, rate and time left."""

import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from mixer_jax.runlog import terminal
from mixer_jax.runlog.metrics import MetricsFile
from mixer_jax.runlog.terminal import duration

T = TypeVar('T')

_FIRST_SECONDS, _EVERY_SECONDS = 5.0, 30.0  # to the first line, and between lines, in a log file
_SMOOTHING = 0.05
"""Weight of the newest step in the running mean that the time left is estimated from."""


class Progress:
  """Reports each step. Its rate excludes the first step (compilation) and pauses."""

  def __init__(
    self,
    file: MetricsFile | None,
    *,
    total_steps: int,
    batch_size: int,
    log_every: int,
    started: float,
    input_wait: Callable[[], float | None] = lambda: None,
    shown: bool = True,
  ):
    """Args:
    file: receives the rows; None: they are dropped.
    started: the `time.monotonic()` that `seconds` counts from.
    input_wait: returns the share of the time since its last call that the devices waited for
      input, 0 to 1; None: unknown.
    shown: show progress lines.
    """
    self._file, self._shown = file, shown
    self._total_steps, self._batch_size, self._log_every = total_steps, batch_size, log_every
    self._started, self._input_wait = started, input_wait
    self._share: float | None = None  # of waiting, in the last row
    self._last: float | None = None
    self._step_seconds: float | None = None
    self._logged_seconds, self._logged_steps = 0.0, 0

  def step(self, step: int, metrics: dict[str, float]) -> dict[str, Any] | None:
    """Report a finished step; write a row every `log_every` steps and for the last one.

    Returns:
      The row, if there is one; `images_per_second` and `input_wait` are None where unknown.
    """
    now = time.monotonic()
    if self._last is not None:
      seconds = now - self._last
      old = self._step_seconds or seconds
      self._step_seconds = old + _SMOOTHING * (seconds - old)
      self._logged_seconds += seconds
      self._logged_steps += 1
    self._last = now
    if self._shown:
      terminal.live(self._line(step, metrics, self._step_seconds))
    if step % self._log_every == 0 or step == self._total_steps:
      pace = self._logged_seconds / self._logged_steps if self._logged_steps else None
      self._logged_seconds, self._logged_steps = 0.0, 0
      share = self._input_wait()
      self._share = share if share is None else round(share, 4)
      if self._shown:
        terminal.plain(self._line(step, metrics, pace))
      rate = self._batch_size / pace if pace else None
      row = {'step': step, **metrics, 'images_per_second': rate, 'input_wait': self._share}
      self._write(row)
      return row
    return None

  def pause(self) -> None:
    """Exclude the time up to the next step from the rate."""
    self._last = None

  def event(self, event: str, **fields: Any) -> None:
    """Write a row for something other than a step; `seconds` is now, if it is not given."""
    self._write({'event': event, **fields})

  def seconds(self) -> float:
    """Return the seconds since the start."""
    return round(time.monotonic() - self._started, 3)

  def flush(self) -> None:
    """Write rows that are held back."""
    if self._file is not None:
      self._file.flush()

  def _write(self, row: dict[str, Any]) -> None:
    if self._file is not None:
      self._file.write({'seconds': self.seconds(), **row})

  def _line(self, step: int, metrics: dict[str, float], pace: float | None) -> str:
    width = len(str(self._total_steps))
    text = (
      f'step {step:{width}d}/{self._total_steps}  loss {metrics["loss"]:.4f}  '
      f'accuracy {100 * metrics["accuracy"]:5.1f} %'
    )
    if pace:
      left = duration(pace * (self._total_steps - step))
      text += f'  {self._batch_size / pace:,.0f} images/s  {left} left'
    if self._share is not None:
      text += f'  waits {100 * self._share:.0f} %'
    return text


def reading(
  batches: Iterable[T], batch_size: int, size: int, what: str = 'images', *, keep: bool = True
) -> Iterator[T]:
  """Yield the batches, with a live line of the images read, their rate and the time left.

  Args:
    what: name of the images, as in 'images of digits/test'.
    keep: the last line remains; otherwise the live line from before comes back.
  """
  before = terminal.line()
  started, next_line = None, time.monotonic() + _FIRST_SECONDS
  try:
    for number, batch in enumerate(batches):
      done, text = number * batch_size, ''
      if started is None:
        started = time.monotonic()
      else:
        rate = done / (time.monotonic() - started)
        text = f'  {rate:,.0f} images/s  {duration((size - done) / rate)} left'
      line = f'{done:,} of {size:,} {what}{text}'
      terminal.live(line)
      if time.monotonic() > next_line:
        terminal.plain(line)
        next_line = time.monotonic() + _EVERY_SECONDS
      yield batch
  finally:
    terminal.finish() if keep else terminal.restore(before)
