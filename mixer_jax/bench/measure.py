"""Measuring what is here: interleaved times, compilation, memory, the rate of a plain multiply."""

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

Work = Callable[[], Any]
"""Returns when it is done, on the devices as well."""


_SIDE, _CPU_SIDE = 8192, 2048  # of the multiplied matrices: beyond, they are multiplied no faster


@dataclasses.dataclass(frozen=True)
class Compilation:
  """Seconds to make a program of a function.

  Attributes:
    trace: Python's part, which no cache spares.
    cold: the compiler's, with putting the program into the cache.
    cached: instead, where it is in the cache; None where this device's programs cannot be kept.
  """

  trace: float
  cold: float
  cached: float | None


def interleaved(
  works: Mapping[str, Work],
  rounds: int,
  between: Callable[[str], None] = lambda name: None,
  ahead: Callable[[str], Any] = lambda name: None,
) -> dict[str, list[float]]:
  """Seconds of each work in each round; the works take turns, behind one turn that warms up.

  Args:
    between: called behind each turn, outside the times.
    ahead: called ahead of each turn, outside the times too.
  """
  seconds: dict[str, list[float]] = {name: [] for name in works}
  for turn in range(rounds + 1):
    for name, work in works.items():
      ahead(name)
      begun = time.perf_counter()
      work()
      if turn:
        seconds[name].append(time.perf_counter() - begun)
      between(name)
  return seconds


def ratio(over: list[float], under: list[float]) -> float:
  """Median over the rounds of `over` / `under`."""
  return statistics.median(a / b for a, b in zip(over, under, strict=True))


def repeats(work: Work, seconds: float) -> int:
  """How often `work` is to run to take about so many seconds; at least once. It is warm."""
  begun = time.perf_counter()
  work()
  return max(math.ceil(seconds / (time.perf_counter() - begun)), 1)


def repeated(call: Callable[[], Any], times: int) -> Work:
  """`call` so many times, dispatched one after the other and awaited at the end."""

  def work():
    result = None
    for _ in range(times):
      result = call()
    jax.block_until_ready(result)

  return work


class Multiply:
  """A large matrix multiply on one device: what its libraries reach of its peak.

  Attributes:
    side: of the square matrices.
    flops: of one multiply.
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
  """The program of a jitted function for arguments of these shapes.

  Raises:
    DoesNotFitError: the devices, or the host that plays them, have not so much memory.
  """
  with out_of_memory_told():
    program = function.lower(*arguments).compile()
  limit = _limit()
  needed = program_bytes(program)
  if limit is not None and needed > limit:
    raise DoesNotFitError(f'{needed / 2**30:.1f} GiB a device, of {limit / 2**30:.1f}')
  return program


def compilation(function: Any, arguments: tuple) -> Compilation:
  """How long it takes to make the program, all anew and from a cache that was filled by that."""
  jax.clear_caches()
  with _cache_of_its_own() as is_hit:
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
def _cache_of_its_own() -> Iterator[Callable[[], bool]]:
  """An empty compilation cache; what it gives tells whether anything was found in it."""
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
def out_of_memory_told() -> Iterator[None]:
  """Turns what JAX or NumPy raise for want of memory into `DoesNotFitError`."""
  try:
    yield
  except MemoryError as error:
    raise DoesNotFitError('the host has no memory for it') from error
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    raise DoesNotFitError('a device has no memory for it') from error


def program_bytes(program: jax.stages.Compiled) -> int:
  """That a device holds while the program runs: arguments, results and temporaries."""
  told = program.memory_analysis()
  assert told
  return (
    told.argument_size_in_bytes
    + told.output_size_in_bytes
    + told.temp_size_in_bytes
    - told.alias_size_in_bytes
  )


def program_flops(program: jax.stages.Compiled) -> float:
  """By the compiler's count, of all devices."""
  cost = program.cost_analysis()
  assert cost
  return cost['flops'] * jax.device_count()


def peak_bytes() -> tuple[int, str]:
  """(the most that was held since the process began, by whom): a device, or the host for CPUs."""
  stats = [device.memory_stats() or {} for device in jax.local_devices()]
  peaks = [told['peak_bytes_in_use'] for told in stats if 'peak_bytes_in_use' in told]
  if peaks:
    return max(peaks), 'device'
  unit = 1 if sys.platform == 'darwin' else 2**10
  return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit, 'host'


def _limit() -> float | None:
  """Bytes that a device can give; the host's free memory, shared out, for CPUs."""
  stats = jax.local_devices()[0].memory_stats() or {}
  if 'bytes_limit' in stats:
    return stats['bytes_limit']
  free = free_memory()
  return free and free / jax.local_device_count()


def spread(seconds: list[float]) -> tuple[float, float, float]:
  """(median, least, most)."""
  return statistics.median(seconds), min(seconds), max(seconds)
