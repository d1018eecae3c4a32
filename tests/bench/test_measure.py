"""What is measured, on programs of which we know what they do."""

import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.bench import measure
from mixer_jax.errors import DoesNotFitError


def test_works_take_turns_behind_a_turn_that_warms_up():
  turns = []
  works = {name: lambda name=name: turns.append(name) for name in 'ab'}
  told = lambda word: lambda name: turns.append(f'{word} {name}')
  seconds = measure.interleaved(works, 2, between=told('behind'), ahead=told('ahead of'))
  assert turns == ['ahead of a', 'a', 'behind a', 'ahead of b', 'b', 'behind b'] * 3
  assert {name: len(times) for name, times in seconds.items()} == {'a': 2, 'b': 2}


def test_a_ratio_is_of_rounds_so_that_drift_cancels():
  drift = [1.0, 2.0, 50.0]
  assert measure.ratio([3 * x for x in drift], drift) == pytest.approx(3)


def test_as_many_repeats_as_fill_the_time():
  assert measure.repeats(lambda: time.sleep(0.02), 0.1) in range(2, 7)
  assert measure.repeats(lambda: time.sleep(0.02), 0.001) == 1


def test_flops_and_bytes_of_a_multiply():
  function = jax.jit(jnp.matmul)
  a = jax.ShapeDtypeStruct((64, 32), jnp.float32)
  b = jax.ShapeDtypeStruct((32, 16), jnp.float32)
  program = measure.compiled(function, (a, b))
  assert measure.program_flops(program) == 2 * 64 * 32 * 16 * jax.device_count()
  assert measure.program_bytes(program) >= 4 * (64 * 32 + 32 * 16 + 64 * 16)
  multiply = measure.Multiply('float32')
  assert (multiply.side, multiply.flops) == (2048, 2 * 2048**3)
  assert multiply().shape == (2048, 2048)


def test_a_program_is_made_anew_and_found_again_and_the_users_cache_is_left_alone(tmp_path):
  users = str(tmp_path)
  before = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
  jax.config.update('jax_compilation_cache_dir', users)
  try:
    function = jax.jit(lambda x: jnp.sin(x) @ x)
    told = measure.compilation(function, (jax.ShapeDtypeStruct((8, 8), jnp.float32),))
    assert jax.config.jax_compilation_cache_dir == users  # pyright: ignore[reportAttributeAccessIssue]
  finally:
    jax.config.update('jax_compilation_cache_dir', before)
  assert told.cached is not None
  assert min(told.trace, told.cold, told.cached) > 0
  assert not list(tmp_path.iterdir())


def test_a_program_without_room_is_refused(monkeypatch):
  monkeypatch.setattr(measure, 'free_memory', lambda: jax.local_device_count() * 10_000)
  square = lambda side: (jax.ShapeDtypeStruct((side, side), jnp.float32),)
  measure.compiled(jax.jit(jnp.sin), square(10))
  with pytest.raises(DoesNotFitError, match='GiB'):
    measure.compiled(jax.jit(jnp.sin), square(100))


def test_want_of_memory_is_told_and_other_faults_are_not_taken_for_it():
  with pytest.raises(DoesNotFitError), measure.out_of_memory_told():
    raise MemoryError
  with pytest.raises(DoesNotFitError), measure.out_of_memory_told():
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory')
  with pytest.raises(jax.errors.JaxRuntimeError), measure.out_of_memory_told():
    raise jax.errors.JaxRuntimeError('INTERNAL: something else')


def test_the_most_memory_up_to_now():
  before, holder = measure.peak_bytes()
  held = np.ones(before // 8 + 2**24)  # more than ever before, touched
  after, _ = measure.peak_bytes()
  assert holder == 'host'
  assert after >= held.nbytes > 0
