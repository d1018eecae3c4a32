"""The processes of a run: how they find each other, agree, and exit.

`jax.distributed` is started on TPUs, or where the environment of a launcher asks for it; on a
laptop it is not. A process that fails exits at once: its peers would otherwise wait for it in a
barrier.
"""

import dataclasses
import hashlib
import logging
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np

from mixer_jax.errors import ApartError, UserError, one_line
from mixer_jax.hardware import has_tpu
from mixer_jax.parallel import platforms

log = logging.getLogger(__name__)

T = TypeVar('T')

COORDINATOR = 'MIXER_JAX_COORDINATOR'
"""host:port of process 0. Set by a launcher, with the next two."""
NUM_PROCESSES = 'MIXER_JAX_NUM_PROCESSES'
PROCESS_ID = 'MIXER_JAX_PROCESS_ID'


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
  """Attributes:
  distributed: 'auto': where there are TPUs or a launcher asks; 'on'; 'off'.
  start_seconds: limit for all processes to connect.
  heartbeat_seconds: a process without a heartbeat for this long is considered dead, and all
    others exit.
  shutdown_seconds: limit for a process that has ended to wait for the others.
  """

  distributed: str = 'auto'
  start_seconds: int = 300
  heartbeat_seconds: int = 100
  shutdown_seconds: int = 60

  def __post_init__(self):
    if self.distributed not in ('auto', 'on', 'off'):
      raise UserError(
        f"processes.distributed must be 'auto', 'on' or 'off', not {self.distributed!r}"
      )
    for name in ('start_seconds', 'heartbeat_seconds', 'shutdown_seconds'):
      value = getattr(self, name)
      if type(value) is not int or not 1 <= value <= 86_400:
        raise UserError(f'processes.{name} must be whole seconds in 1..86400, is {value!r}')


def start(config: ProcessesConfig, *, preemptible: bool) -> None:
  """Join the other processes, if there are any; to be called before JAX touches a device.

  Args:
    preemptible: `parallel.preemption` handles SIGTERM; otherwise it ends the process.

  Raises:
    UserError: the environment of the launcher is incomplete.
    ApartError: the processes did not connect within the limit.
  """
  launched = _from_launcher()
  alone = config.distributed == 'auto' and not launched and not has_tpu()
  if config.distributed == 'off' or alone:
    return
  jax.config.update('jax_enable_preemption_service', preemptible)
  try:
    jax.distributed.initialize(
      **launched,
      initialization_timeout=config.start_seconds,
      heartbeat_timeout_seconds=config.heartbeat_seconds,
      shutdown_timeout_seconds=config.shutdown_seconds,
    )
  except Exception as error:  # the service raises many kinds
    raise ApartError(
      f'the processes did not connect within {config.start_seconds} s ({one_line(error)}): is one '
      'missing, or is it another program? --config.processes.distributed=off runs without others'
    ) from error
  platforms.check()
  log.info(
    'process %d of %d: pid %d on %s, %d of %d devices',
    jax.process_index(),
    jax.process_count(),
    os.getpid(),
    socket.gethostname(),
    jax.local_device_count(),
    jax.device_count(),
  )


def _from_launcher() -> dict[str, Any]:
  """Return the arguments of `jax.distributed.initialize` that a launcher has set; {} if none."""
  names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
  address, count, index = (os.environ.get(name, '') for name in names)
  if not (address or count or index):
    return {}
  if not (address and count.isdecimal() and index.isdecimal() and int(index) < int(count)):
    raise UserError(
      f'{COORDINATOR}={address} {NUM_PROCESSES}={count} {PROCESS_ID}={index}: a launcher sets '
      'host:port, the number of processes, and the number of this one, from 0'
    )
  return {
    'coordinator_address': address,
    'num_processes': int(count),
    'process_id': int(index),
  }


def is_alone() -> bool:
  """Return True if this is the only process."""
  return jax.process_count() == 1


def is_main() -> bool:
  """Return True in the process that prints results and writes files: process 0."""
  return jax.process_index() == 0


def all_agree(ok: bool) -> bool:
  """Return True if `ok` is True in every process."""
  if is_alone():
    return ok
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(ok)).all())


def barrier(name: str) -> None:
  """Wait until every process has called this."""
  if not is_alone():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def check_same(what: dict[str, str]) -> None:
  """Check that these texts, by name, are the same in all processes.

  Raises:
    UserError: naming the first that differs, in every process.
  """
  if is_alone():
    return
  from jax.experimental import multihost_utils

  digest = lambda text: np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  differs = lambda rows: (rows != rows[0]).any(axis=(0, -1))
  if differs(multihost_utils.process_allgather(digest('\n'.join(what)))):
    raise UserError('the processes were started with configs of different fields: start them alike')
  texts = multihost_utils.process_allgather(np.stack([digest(text) for text in what.values()]))
  others = np.flatnonzero(differs(texts))
  if others.size:
    name = list(what)[others[0]]
    raise UserError(
      f'the processes were started differently: {name} is {what[name][:200]} in this one, and not '
      'in all: start them alike'
    )


def together(make: Callable[[], T]) -> T:
  """Return the result of `make` in every process; if it is refused in one, all of them exit.

  Raises:
    UserError: `make` raised it here, or in another process.
  """
  if is_alone():
    return make()
  from jax.experimental import multihost_utils

  made, error = None, None
  try:
    made = make()
  except UserError as refusal:
    error = refusal
  refused = np.flatnonzero(multihost_utils.process_allgather(np.array(error is not None)))
  if error is not None:
    raise error
  if refused.size:
    raise UserError(f'process {refused[0]} rejected its input: see its own message')
  return cast(T, made)


def agreed(value: float) -> float:
  """Return the value of process 0, bit for bit, in all processes, for a common decision."""
  if is_alone():
    return value
  from jax.experimental import multihost_utils

  bits = np.frombuffer(np.float64(value).tobytes(), np.uint8)  # JAX would round it to float32
  bits = np.asarray(multihost_utils.broadcast_one_to_all(bits), np.uint8)
  return float(np.frombuffer(bits.tobytes(), np.float64)[0])


def gathered(text: str) -> list[str]:
  """Return the texts of all processes, in their order. All processes call it."""
  if is_alone():
    return [text]
  from jax.experimental import multihost_utils

  data = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(data.size)).tolist()
  padded = np.pad(data, (0, max(sizes) - data.size))
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


def leave_together() -> None:
  """Waits for the other processes, at most `shutdown_seconds`, before a process ends."""
  if not is_alone():
    jax.distributed.shutdown()
