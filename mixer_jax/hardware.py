"""Hardware of this machine, found without JAX, which would start the devices it finds."""

import hashlib
import importlib.util
import os
import pathlib
import platform

_NVIDIA = pathlib.Path('/dev/nvidiactl')


def has_tpu() -> bool:
  """Return True if TPU chips are attached to this host."""
  return any(pathlib.Path('/dev').glob('accel*')) or any(pathlib.Path('/dev/vfio').glob('[0-9]*'))


def jax_platforms() -> str | None:
  """Return the value that JAX_PLATFORMS should have; None if JAX finds its devices by itself.

  If libtpu is installed on a host without a TPU, JAX tries it all the same: that takes seconds
  and prints errors.
  """
  if importlib.util.find_spec('libtpu') is None:
    return None
  if has_tpu() or os.environ.get('TPU_NAME') or os.environ.get('TPU_WORKER_HOSTNAMES'):
    return None
  return 'cuda,cpu' if _NVIDIA.exists() else 'cpu'


def cpu_kind() -> str:
  """Return a name that is the same on CPUs that run the same machine code: 'x86_64-5b1d0c9a'."""
  lines = _read('/proc/cpuinfo').splitlines()
  features = sorted({line for line in lines if line.lower().startswith(('flags', 'features'))})
  digest = hashlib.sha256(''.join(features).encode()).hexdigest()
  return f'{platform.machine()}-{digest[:8]}'


def cpu_name() -> str:
  """Return the processor's name for people, such as 'AMD EPYC 9B14'."""
  for line in _read('/proc/cpuinfo').splitlines():
    if line.startswith('model name'):
      return line.partition(':')[2].strip()
  return platform.processor() or platform.machine()


def threads_per_core() -> int:
  """Return the number of hardware threads of a core, as the system reports it; 1 if unknown."""
  text = _read('/sys/devices/system/cpu/cpu0/topology/thread_siblings_list')
  ends = [[int(end) for end in part.split('-')] for part in text.strip().split(',') if part]
  return sum(part[-1] - part[0] + 1 for part in ends) or 1


def free_memory() -> int | None:
  """Return the bytes of host memory that this process can still use; None if unknown."""
  found = [_bytes(line) for line in _read('/proc/meminfo').splitlines() if 'MemAvailable' in line]
  group = pathlib.Path('/sys/fs/cgroup')  # a container's limit
  limit, used = _read(group / 'memory.max').strip(), _read(group / 'memory.current').strip()
  if limit.isdecimal() and used.isdecimal():
    # The page cache is given back when memory is needed.
    cached = [
      int(line.split()[1])
      for line in _read(group / 'memory.stat').splitlines()
      if line.startswith('inactive_file ')
    ]
    found.append(int(limit) - int(used) + sum(cached))
  return min(found, default=None)


def _bytes(line: str) -> int:
  """Return the bytes of a line such as 'MemAvailable:   123 kB'."""
  return int(line.split()[1]) * 2**10


def _read(path: str | pathlib.Path) -> str:
  try:
    return pathlib.Path(path).read_text()
  except OSError:
    return ''
