"""What this machine has, asked without JAX: it would start what it finds."""

import hashlib
import pathlib
import platform


def has_tpu() -> bool:
  """Whether TPU chips are attached to this host."""
  return any(pathlib.Path('/dev').glob('accel*')) or any(pathlib.Path('/dev/vfio').glob('[0-9]*'))


def cpu_kind() -> str:
  """The same on CPUs that run the same machine code: 'x86_64-5b1d0c9a'."""
  lines = _read('/proc/cpuinfo').splitlines()
  told = sorted({line for line in lines if line.lower().startswith(('flags', 'features'))})
  return f'{platform.machine()}-{hashlib.sha256("".join(told).encode()).hexdigest()[:8]}'


def free_memory() -> int | None:
  """Bytes of host memory that this process could still take; None where nothing tells."""
  found = [_bytes(line) for line in _read('/proc/meminfo').splitlines() if 'MemAvailable' in line]
  group = pathlib.Path('/sys/fs/cgroup')  # a container's limit
  limit, used = _read(group / 'memory.max').strip(), _read(group / 'memory.current').strip()
  if limit.isdecimal() and used.isdecimal():
    # What files take in the cache gives way.
    cached = [
      int(line.split()[1])
      for line in _read(group / 'memory.stat').splitlines()
      if line.startswith('inactive_file ')
    ]
    found.append(int(limit) - int(used) + sum(cached))
  return min(found, default=None)


def _bytes(line: str) -> int:
  """Of a line 'MemAvailable:   123 kB'."""
  return int(line.split()[1]) * 2**10


def _read(path: str | pathlib.Path) -> str:
  try:
    return pathlib.Path(path).read_text()
  except OSError:
    return ''
