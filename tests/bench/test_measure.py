"""Measurements of programs whose numbers are known."""

import os
import pathlib

import jax
import jax.numpy as jnp
import pytest

from mixer_jax.bench import measure
from mixer_jax.errors import DoesNotFitError
from mixer_jax.parallel import compiled


def test_works_take_turns_after_a_warm_up_round():
  turns = []
  works = {name: lambda name=name: turns.append(name) for name in 'ab'}
  record = lambda word: lambda name: turns.append(f'{word} {name}')
  seconds = measure.interleaved(works, 2, before=record('before'), after=record('after'))
  assert turns == ['before a', 'a', 'after a', 'before b', 'b', 'after b'] * 3
  assert {name: len(times) for name, times in seconds.items()} == {'a': 2, 'b': 2}


def test_a_ratio_is_of_rounds_so_that_drift_cancels():
  drift = [1.0, 2.0, 50.0]
  assert measure.ratio([3 * x for x in drift], drift) == pytest.approx(3)


def test_as_many_repeats_as_fill_the_time(monkeypatch):
  clock = iter([5.0, 5.25, 7.0, 7.25])
  monkeypatch.setattr(measure.time, 'perf_counter', lambda: next(clock))
  assert measure.repeats(lambda: None, 1.1) == 5
  assert measure.repeats(lambda: None, 0.001) == 1


def test_flops_and_bytes_of_a_multiply():
  function = jax.jit(jnp.matmul)
  a = jax.ShapeDtypeStruct((64, 32), jnp.float32)
  b = jax.ShapeDtypeStruct((32, 16), jnp.float32)
  program = measure.compiled(function, (a, b))
  assert compiled.program_flops(program) == 2 * 64 * 32 * 16
  assert compiled.program_bytes(program) >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
  multiply = measure.Multiply('float32')
  assert (multiply.side, multiply.flops) == (2048, 2 * 2048**3)
  assert multiply().shape == (2048, 2048)


def test_a_program_is_compiled_and_read_back_and_the_cache_of_the_user_is_left_alone(tmp_path):
  users = str(tmp_path)
  before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
  jax.config.update('jax_compilation_cache_dir', users)
  try:
    function = jax.jit(lambda x: jnp.sin(x) @ x)
    seconds = measure.compilation(function, (jax.ShapeDtypeStruct((8, 8), jnp.float32),))
    assert jax.config.jax_compilation_cache_dir == users  # pyright: ignore[reportAttributeAccessIssue]
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  assert seconds.cached is not None
  assert min(seconds.trace, seconds.cold, seconds.cached) > 0
  assert not list(tmp_path.iterdir())


def test_a_program_larger_than_the_memory_is_rejected(monkeypatch):
  monkeypatch.setattr(measure, 'free_memory', lambda: jax.local_device_count() * 10_000)
  square = lambda side: (jax.ShapeDtypeStruct((side, side), jnp.float32),)
  measure.compiled(jax.jit(jnp.sin), square(10))
  with pytest.raises(DoesNotFitError, match='GiB'):
    measure.compiled(jax.jit(jnp.sin), square(100))


def test_out_of_memory_is_reported_and_not_confused_with_other_errors():
  with pytest.raises(DoesNotFitError), measure.out_of_memory_as_does_not_fit():
    raise MemoryError
  with pytest.raises(DoesNotFitError), measure.out_of_memory_as_does_not_fit():
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
  with pytest.raises(jax.errors.JaxRuntimeError), measure.out_of_memory_as_does_not_fit():
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')


def test_peak_memory_of_the_host_is_no_less_than_what_is_held_now():
  peak, holder = measure.peak_bytes()
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  assert holder == 'host'
  assert pages * os.sysconf('SC_PAGE_SIZE') <= peak < 2**40


def test_peak_memory_of_devices_is_that_of_the_device_that_held_most(monkeypatch):
  class Device:
    def __init__(self, peak):
      self.memory_stats = lambda: {'peak_bytes_in_use': peak}

  monkeypatch.setattr(jax, 'local_devices', lambda: [Device(3), Device(7), Device(5)])
  assert measure.peak_bytes() == (7, 'device')
