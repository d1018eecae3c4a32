"""The processes of a run: how they find each other, agree, and leave.

`jax.distributed` is started where a pod is or where the launcher asks for it by
environment; on a laptop nothing is. A process that fails leaves at once: its peers
would otherwise wait for it in a barrier.
"""

import dataclasses
import hashlib
import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from typing import Any, TypeVar, cast

import jax
import numpy as np

from mixer_jax.errors import ApartError, UserError
from mixer_jax.hardware import has_tpu

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
  start_seconds: limit for all processes to come together.
  heartbeat_seconds: a process that is silent for so long is taken for dead, and all
    leave.
  shutdown_seconds: how long a process that has ended waits for the others.
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
  """Joins the other processes, where there are any; before anything touches a device.

  `preemptible`: whether a `Preemption` will ask for SIGTERM; else it ends the process.

  Raises:
    UserError: the environment of the launcher is not whole.
    ApartError: the processes did not come together within the limit.
  """
  asked = _asked()
  if config.distributed == 'off' or (config.distributed == 'auto' and not asked and not has_tpu()):
    return
  jax.config.update('jax_enable_preemption_service', preemptible)
  try:
    jax.distributed.initialize(
      **asked,
      initialization_timeout=config.start_seconds,
      heartbeat_timeout_seconds=config.heartbeat_seconds,
      shutdown_timeout_seconds=config.shutdown_seconds,
    )
  except Exception as error:  # whatever the service raises
    reason = ' '.join(str(error).split())[:200]
    raise ApartError(
      f'the processes did not come together within {config.start_seconds} s ({reason}): is one '
      'missing, or is it another program? --config.processes.distributed=off runs alone'
    ) from error
  log.info(
    'process %d of %d: pid %d on %s, %d of %d devices',
    jax.process_index(),
    jax.process_count(),
    os.getpid(),
    socket.gethostname(),
    jax.local_device_count(),
    jax.device_count(),
  )


def _asked() -> dict[str, Any]:
  names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
  address, count, index = (os.environ.get(name, '') for name in names)
  if not (address or count or index):
    return {}
  if not (address and count.isdecimal() and index.isdecimal() and int(index) < int(count)):
    raise UserError(
      f'{COORDINATOR}={address} {NUM_PROCESSES}={count} {PROCESS_ID}={index}: a launcher sets '
      'host:port, how many processes, and which of them, from 0'
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
  """Wait until every process has come here."""
  if not is_alone():
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)


def check_same(what: dict[str, str]) -> None:
  """All processes leave unless these texts, by name, are the same in all.

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
  """What `make` gives in every process; if it is refused in one, all leave.

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
    raise UserError(f'process {refused[0]} refuses to go on: its own line tells why')
  return cast(T, made)


def agreed(value: float) -> float:
  """Process 0's value, to the bit, in all: for what they decide upon together."""
  if is_alone():
    return value
  from jax.experimental import multihost_utils

  bits = np.frombuffer(np.float64(value).tobytes(), np.uint8)  # JAX would round it to float32
  bits = np.asarray(multihost_utils.broadcast_one_to_all(bits), np.uint8)
  return float(np.frombuffer(bits.tobytes(), np.float64)[0])


def gathered(text: str) -> list[str]:
  """The texts of all processes, in their order. All call it alike."""
  if is_alone():
    return [text]
  from jax.experimental import multihost_utils

  data = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.array(data.size)).tolist()
  padded = np.pad(data, (0, max(sizes) - data.size))
  rows = multihost_utils.process_allgather(padded)
  return [row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)]


class Preemption:
  """Whether the run was told to leave (SIGTERM), agreed by all processes on one step.

  A context manager: in it a SIGTERM no longer ends the process at once.
  """

  def __init__(self):
    self._told = False
    self._old = None

  def __enter__(self) -> 'Preemption':
    # Otherwise the service of jax.distributed listens; Python lets the main thread alone listen.
    if is_alone() and threading.current_thread() is threading.main_thread():
      self._old = signal.signal(signal.SIGTERM, self._hear)
    return self

  def __exit__(self, *_) -> None:
    if self._old is not None:
      signal.signal(signal.SIGTERM, self._old)

  def reached(self, step: int) -> bool:
    """Whether this is the step to save and leave. To be asked by all, at every step."""
    if is_alone():
      return self._told
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)

  def _hear(self, *_) -> None:
    self._told = True


def leave_together() -> None:
  """Waits for the other processes, at most `shutdown_seconds`, before a process ends."""
  if not is_alone():
    jax.distributed.shutdown()
