"""Profiles of a running command."""

import logging
import os
import signal
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.runs import profiling


@pytest.fixture(autouse=True)
def _signals(monkeypatch, tmp_path):
  monkeypatch.setenv(profiling.FOLDER_SETTING, str(tmp_path / 'profiles'))
  old = signal.getsignal(signal.SIGUSR2)
  yield
  signal.signal(signal.SIGUSR2, old)


def until(what):
  end = time.monotonic() + 30
  while not what():
    assert time.monotonic() < end
    time.sleep(0.05)


def test_the_second_signal_writes_the_profile(tmp_path, caplog):
  caplog.set_level(logging.INFO, 'mixer_jax')
  profiling.listen()
  os.kill(os.getpid(), signal.SIGUSR2)
  until(lambda: 'recording a profile' in caplog.text)
  jax.block_until_ready(jax.jit(lambda x: x @ x)(jnp.ones((64, 64))))
  os.kill(os.getpid(), signal.SIGUSR2)
  until(lambda: 'the profile is in' in caplog.text)
  (written,) = (tmp_path / 'profiles').rglob('*.xplane.pb')
  assert written.stat().st_size > 0


def test_a_profile_that_cannot_be_written_does_not_end_the_run(caplog, monkeypatch):
  profiler = profiling.Profiler()

  def fails(_):
    raise RuntimeError('only one profile may be active')

  monkeypatch.setattr(jax.profiler, 'start_trace', fails)
  profiler.toggle()
  assert 'only one profile may be active' in caplog.text


def test_a_profile_ends_at_its_limit(monkeypatch, tmp_path):
  calls = []
  monkeypatch.setattr(profiling, '_LONGEST', 0.05)
  monkeypatch.setattr(jax.profiler, 'start_trace', calls.append)
  monkeypatch.setattr(jax.profiler, 'stop_trace', lambda: calls.append('stop'))
  profiler = profiling.Profiler()
  profiler.toggle()
  until(lambda: len(calls) == 2)
  profiler.toggle()
  until(lambda: len(calls) == 4)
  assert calls == [str(tmp_path / 'profiles'), 'stop'] * 2


def test_another_thread_does_not_listen():
  old = signal.getsignal(signal.SIGUSR2)
  thread = threading.Thread(target=profiling.listen)
  thread.start()
  thread.join()
  assert signal.getsignal(signal.SIGUSR2) == old
