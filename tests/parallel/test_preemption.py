"""Signals that ask a run to stop."""

import os
import signal

import pytest

from mixer_jax.errors import InterruptedRunError, PreemptedError
from mixer_jax.parallel import preemption
from mixer_jax.parallel.preemption import preemptible, stop_point


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_held_back_until_a_stop_point(number):
  before = signal.getsignal(number)
  with preemptible() as request:
    stop_point('here')
    signal.raise_signal(number)
    assert request.reached()
    with pytest.raises(PreemptedError, match='preempted here') as raised:
      stop_point('here')
  assert not isinstance(raised.value, KeyboardInterrupt)
  assert signal.getsignal(number) == before
  stop_point('outside')


def test_an_inner_one_hands_its_request_to_the_outer_one():
  with preemptible() as outer:
    with preemptible():
      signal.raise_signal(signal.SIGTERM)
    assert outer.reached()
  with preemptible() as later:
    assert not later.reached()


def test_a_second_interrupt_leaves_at_once(monkeypatch, capfd):
  codes = []
  monkeypatch.setattr(preemption.os, '_exit', codes.append)
  with preemptible() as request:
    signal.raise_signal(signal.SIGINT)
    assert codes == []
    error = request.error('at step 3')
    assert isinstance(error, InterruptedRunError)
    assert isinstance(error, KeyboardInterrupt)
    assert str(error) == 'interrupted at step 3'
    # The terminal sends a Ctrl-C to all processes, and a supervisor forwards its own.
    signal.raise_signal(signal.SIGINT)
    assert codes == []
    monkeypatch.setattr(preemption.time, 'monotonic', lambda: request._requested + 1.1)
    signal.raise_signal(signal.SIGINT)
  assert codes == [130]
  notice, left = capfd.readouterr().err.split('\n\n')
  assert 'Ctrl-C again leaves at once' in notice
  assert 'resumes from the last saved state, or begins if there is none' in left


def test_what_nohup_ignores_remains_ignored():
  old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
  try:
    with preemptible() as request:
      os.kill(os.getpid(), signal.SIGHUP)
      assert not request.reached()
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
  finally:
    signal.signal(signal.SIGHUP, old)
