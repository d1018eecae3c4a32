"""Requests to stop, held back until a point where the work can be resumed.

Schedulers send SIGTERM, SIGUSR1 or SIGHUP, and users Ctrl-C (SIGINT).
"""

import contextlib
import itertools
import os
import signal
import threading
import time
from collections.abc import Iterator

from mixer_jax.errors import RESUMES, InterruptedRunError, PreemptedError
from mixer_jax.parallel import processes

_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP, signal.SIGINT)
_NOTICE = b'\nmixer-jax: stopping once the state is saved; Ctrl-C again leaves at once\n'
_LEFT = f'\nmixer-jax: left at once; {RESUMES}\n'.encode()
_ONE_REQUEST = 1.0  # seconds; a supervisor forwards the Ctrl-C that the terminal sent to all

_points = itertools.count(1)  # all processes pass the same ones, so that they can agree on one


class Preemption:
  """Requests to stop this process or, in a pod, any of its processes."""

  def __init__(self):
    self._signal: int | None = None
    self._requested = 0.0  # time of the first Ctrl-C
    self._reached = False

  def reached(self) -> bool:
    """Return True if the run should stop at this point, and at all later ones.

    All processes pass the same points in the same order, and stop at the same one.
    """
    if processes.is_alone():
      self._reached = self._signal is not None
    elif not self._reached:
      from jax.experimental import multihost_utils

      self._reached = multihost_utils.reached_preemption_sync_point(next(_points))
    return self._reached

  def error(self, place: str) -> PreemptedError:
    """Return the error that a run stops with at this place, as in 'at step 3'."""
    if self._signal == signal.SIGINT:
      return InterruptedRunError(f'interrupted {place}')
    return PreemptedError(f'preempted {place}')

  @contextlib.contextmanager
  def _listening(self) -> Iterator[None]:
    """Hold signals back, if this is the main thread: Python lets no other handle them."""
    old = {}
    if threading.current_thread() is threading.main_thread():
      for number in _SIGNALS:
        # In a pod the service of jax.distributed listens to SIGTERM. A signal that is ignored, as
        # SIGHUP after nohup, remains so.
        is_served = number == signal.SIGTERM and not processes.is_alone()
        if not is_served and signal.getsignal(number) is not signal.SIG_IGN:
          old[number] = signal.signal(number, self._request)
    try:
      yield
    finally:
      for number, handler in old.items():
        signal.signal(number, handler)

  def _request(self, number: int, _) -> None:
    # An exception raised here could be swallowed by a callback of a library.
    if number == signal.SIGINT:
      now, is_second = time.monotonic(), self._signal == number
      if is_second and now - self._requested < _ONE_REQUEST:
        return
      with contextlib.suppress(OSError):
        os.write(2, _LEFT if is_second else _NOTICE)
      if is_second:
        os._exit(130)
      self._requested = now
    self._signal = self._signal or number
    if not processes.is_alone():
      os.kill(os.getpid(), signal.SIGTERM)  # the service informs the other processes


_current: Preemption | None = None


@contextlib.contextmanager
def preemptible() -> Iterator[Preemption]:
  """Hold back requests to stop; they are seen at the next `Preemption.reached` or `stop_point`.

  A second Ctrl-C, a second or more after the first, ends the process at once. Inside
  another `preemptible` this is the same one.
  """
  global _current
  if _current is not None:
    yield _current
    return
  _current = Preemption()
  try:
    with _current._listening():
      yield _current
  finally:
    _current = None


def stop_point(place: str) -> None:
  """Stop here if that was asked for; outside `preemptible` do nothing. See `Preemption.reached`.

  Args:
    place: for the message.

  Raises:
    PreemptedError: the run should stop.
  """
  if _current is not None and _current.reached():
    raise _current.error(place)
