"""Measurements: interleaved times, compilation, memory, the rate of a plain matrix multiply."""

import contextlib
import dataclasses
import math
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental.compilation_cache import compilation_cache

from mixer_jax.errors import DoesNotFitError
from mixer_jax.hardware import free_memory
from mixer_jax.parallel.compiled import program_bytes

Work = Callable[[], Any]
"""Returns when its work is done, also on the devices."""

# Sides of the multiplied matrices: larger ones are multiplied no faster.
_SIDE, _CPU_SIDE = 8192, 2048


@dataclasses.dataclass(frozen=True)
class Compilation:
  """Seconds to turn a function into a program.

  Attributes:
    trace: tracing in Python, which no cache avoids.
    cold: compilation, including the write to the cache.
    cached: reading from the cache instead; None where programs of this device cannot be cached.
  """

  trace: float
  cold: float
  cached: float | None


def interleaved(
  works: Mapping[str, Work],
  rounds: int,
  before: Callable[[str], Any] = lambda name: None,
  after: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
  """Return the seconds of each work in each round; they take turns, after one warm-up round.

  Args:
    before: called with the name before each turn, outside the timed part.
    after: called with the name after each turn, outside the timed part.
  """
  seconds: dict[str, list[float]] = {name: [] for name in works}
  for turn in range(rounds + 1):
    for name, work in works.items():
      before(name)
      begun = time.perf_counter()
      work()
      if turn:
        seconds[name].append(time.perf_counter() - begun)
      after(name)
  return seconds


def ratio(over: list[float], under: list[float]) -> float:
  """Return the median over the rounds of `over` / `under`."""
  return statistics.median(a / b for a, b in zip(over, under, strict=True))


def repeats(work: Work, seconds: float) -> int:
  """Return how often a warmed-up work must run to take about `seconds`; at least once."""
  begun = time.perf_counter()
  work()
  return max(math.ceil(seconds / (time.perf_counter() - begun)), 1)


def repeated(call: Callable[[], Any], times: int) -> Work:
  """Return a work that dispatches `call` `times` times and waits for the last result."""

  def work():
    result = None
    for _ in range(times):
      result = call()
    jax.block_until_ready(result)

  return work


class Multiply:
  """A large matrix multiply on one device: the rate that its libraries reach in practice.

  Attributes:
    side: rows and columns of the square matrices.
    flops: FLOPs of one multiply.
  """

  def __init__(self, dtype: str):
    self.side = side = _CPU_SIDE if jax.default_backend() == 'cpu' else _SIDE
    self.flops = 2 * side**3
    draw = lambda key: jax.random.normal(key, (side, side), jnp.dtype(dtype))
    self._a, self._b = map(draw, jax.random.split(jax.random.key(0)))  # zeros would take less power
    self._multiply = jax.jit(jnp.matmul).lower(self._a, self._b).compile()

  def __call__(self) -> jax.Array:
    return self._multiply(self._a, self._b)


def compiled(function: Any, arguments: tuple) -> jax.stages.Compiled:
  """Compile a jitted function for arguments of these shapes.

  Raises:
    DoesNotFitError: the devices, or the host that simulates them, have too little memory.
  """
  with out_of_memory_as_does_not_fit():
    program = function.lower(*arguments).compile()
  limit = _limit()
  needed = program_bytes(program)
  if limit is not None and needed > limit:
    raise DoesNotFitError(f'it needs {needed / 2**30:.1f} of {limit / 2**30:.1f} GiB per device')
  return program


def compilation(function: Any, arguments: tuple) -> Compilation:
  """Measure compilation twice: with an empty cache, and from the cache which that filled."""
  jax.clear_caches()
  with _empty_cache() as is_hit:
    begun = time.perf_counter()
    lowered = function.lower(*arguments)
    traced = time.perf_counter()
    lowered.compile()
    done = time.perf_counter()
    jax.clear_caches()
    again = function.lower(*arguments)
    begun_again = time.perf_counter()
    again.compile()
    cached = time.perf_counter() - begun_again
    return Compilation(traced - begun, done - traced, cached if is_hit() else None)


@contextlib.contextmanager
def _empty_cache() -> Iterator[Callable[[], bool]]:
  """Provide an empty compilation cache; yields a function: was anything read from it?"""
  names = (
    'jax_compilation_cache_dir',
    'jax_compilation_cache_max_size',
    'jax_persistent_cache_min_compile_time_secs',
    'jax_enable_compilation_cache',
  )
  before = {name: getattr(jax.config, name) for name in names}
  hits = []
  listen = lambda event, **_: event.endswith('/cache_hits') and hits.append(event)
  with tempfile.TemporaryDirectory() as folder:
    for name, value in zip(names, (folder, -1, 0.0, True), strict=True):
      jax.config.update(name, value)
    compilation_cache.reset_cache()
    jax.monitoring.register_event_listener(listen)
    try:
      yield lambda: bool(hits)
    finally:
      jax.monitoring.unregister_event_listener(listen)
      for name, value in before.items():
        jax.config.update(name, value)
      compilation_cache.reset_cache()


@contextlib.contextmanager
def out_of_memory_as_does_not_fit() -> Iterator[None]:
  """Turn the out-of-memory errors of JAX and NumPy into `DoesNotFitError`."""
  try:
    yield
  except MemoryError as error:
    raise DoesNotFitError('the host has too little memory') from error
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise DoesNotFitError('a device has too little memory') from error


def peak_bytes() -> tuple[int, str]:
  """Return (most bytes held since the process began, 'device' or, for CPUs, 'host')."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [stat['peak_bytes_in_use'] for stat in stats if 'peak_bytes_in_use' in stat]
  if peaks:
    return max(peaks), 'device'
  unit = 1 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 'host'


def _limit() -> float | None:
  """Return the bytes available to each device; for CPUs its share of the host's free memory."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  free = free_memory()
  return free and free / jax.local_device_count()


def spread(seconds: list[float]) -> tuple[float, float, float]:
  """Return (median, minimum, maximum)."""
  return statistics.median(seconds), min(seconds), max(seconds)
