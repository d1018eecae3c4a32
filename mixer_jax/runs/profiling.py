"""A profile of a running command: SIGUSR2 starts one, and the next SIGUSR2 ends and writes it."""

import logging
import os
import signal
import threading

import jax

from mixer_jax.errors import one_line
from mixer_jax.home import cache_folder

log = logging.getLogger(__name__)

FOLDER_SETTING = 'MIXER_JAX_PROFILES'
"""Folder of profiles, as TensorBoard and XProf read them; default `profiles` in the cache."""

_LONGEST = 60.0  # seconds; a longer profile would fill the memory


class Profiler:
  """Records profiles of this process with `jax.profiler`, one at a time."""

  def __init__(self):
    self._folder = ''
    self._lock = threading.Lock()
    self._limit: threading.Timer | None = None

  def toggle(self) -> None:
    """Start a profile, or end and write the one that is being recorded."""
    with self._lock:
      try:
        if self._limit is None:
          self._start()
        else:
          self._end()
      except Exception as error:  # a profile must not end the run
        reason = one_line(error)
        log.warning('no profile (%s): %s names a folder for it', reason, FOLDER_SETTING)

  def _start(self) -> None:
    self._folder = os.environ.get(FOLDER_SETTING) or str(cache_folder() / 'profiles')
    jax.profiler.start_trace(self._folder)
    self._limit = threading.Timer(_LONGEST, self._end_at_limit)
    self._limit.daemon = True
    self._limit.start()
    log.info('recording a profile until the next SIGUSR2, at most %.0f s', _LONGEST)

  def _end(self) -> None:
    assert self._limit
    self._limit.cancel()
    self._limit = None
    jax.profiler.stop_trace()
    log.info('the profile is in %s', self._folder)

  def _end_at_limit(self) -> None:
    with self._lock:
      if self._limit is threading.current_thread():
        self._end()


def listen() -> None:
  """Record profiles on SIGUSR2 from now on; called by the main thread, which may have signals."""
  if threading.current_thread() is not threading.main_thread() or not hasattr(signal, 'SIGUSR2'):
    return
  profiler = Profiler()
  # A thread, since the main one may hold the profiler's locks.
  signal.signal(
    signal.SIGUSR2, lambda *_: threading.Thread(target=profiler.toggle, daemon=True).start()
  )
