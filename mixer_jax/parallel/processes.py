"""The processes of a run: how they find each other, agree, and exit.

`jax.distributed` is started on TPUs, or where the environment of a launcher asks for it; on a
laptop it is not. A process that fails exits at once: its peers would otherwise wait for it in a
barrier.
"""

import contextlib
import dataclasses
import hashlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

import jax
import numpy as np

from mixer_jax.errors import ApartError, StorageError, UserError, one_line
from mixer_jax.hardware import has_tpu
from mixer_jax.parallel import membership, platforms, rendezvous

log = logging.getLogger(__name__)

T = TypeVar('T')

_APART = 69  # exit code of `ApartError`


@dataclasses.dataclass(frozen=True)
class ProcessesConfig:
  """Attributes:
  distributed: 'auto': where there are TPUs or a launcher asks; 'on'; 'off'.
  start_seconds: limit for all processes to connect; 0: `start_limit` sets it by their number.
  heartbeat_seconds: a process without a heartbeat for this long is considered dead, and all
    others exit.
  shutdown_seconds: limit for a process that has ended to wait for the others.
  """

  distributed: str = 'auto'
  start_seconds: int = 0
  heartbeat_seconds: int = 100
  shutdown_seconds: int = 60

  def __post_init__(self):
    if self.distributed not in ('auto', 'on', 'off'):
      raise UserError(
        f"processes.distributed must be 'auto', 'on' or 'off', not {self.distributed!r}"
      )
    for name, least in (('start_seconds', 0), ('heartbeat_seconds', 1), ('shutdown_seconds', 1)):
      value = getattr(self, name)
      if type(value) is not int or not least <= value <= 86_400:
        raise UserError(f'processes.{name} must be whole seconds in {least}..86400, is {value!r}')

  def start_limit(self, count: int) -> int:
    """Return the limit in seconds for this many processes to connect.

    By default five minutes, as in JAX, and one more for each further batch of 64 processes: that
    is how `gcloud` starts commands on many hosts, and its retries of one batch take 50 s.
    """
    return self.start_seconds or 300 + 60 * ((count - 1) // 64)


def start(config: ProcessesConfig, *, preemptible: bool) -> None:
  """Join the other processes, if there are any; to be called before JAX touches a device.

  Args:
    preemptible: `parallel.preemption` handles SIGTERM; otherwise it ends the process.

  Raises:
    UserError: the environment of the launcher is incomplete or wrong.
    ApartError: the processes did not connect within the limit; names those that did not come.
  """
  member = membership.from_launcher()
  alone = config.distributed == 'auto' and not member and not has_tpu()
  if config.distributed == 'off' or alone:
    return
  member = member or membership.detected(config.start_limit(1))
  seconds = config.start_limit(member.count if member else 1)
  place: dict[str, Any] = {}
  if member:
    membership.bypass_proxies(member.host)
    logging.getLogger('jax._src.distributed').setLevel(logging.ERROR)  # it warns of proxies
    rendezvous.meet(member, seconds)
    place = {
      'coordinator_address': member.address,
      'num_processes': member.count,
      'process_id': member.index,
      'local_device_ids': member.local_device_ids,
    }
  jax.config.update('jax_enable_preemption_service', preemptible)
  try:
    with _bounded(seconds):
      jax.distributed.initialize(
        **place,
        initialization_timeout=2 * seconds + 60,  # JAX's own limit aborts the process
        heartbeat_timeout_seconds=config.heartbeat_seconds,
        shutdown_timeout_seconds=config.shutdown_seconds,
      )
  except Exception as error:  # the service raises many kinds
    raise ApartError(
      f'JAX did not connect the processes ({one_line(error)}): '
      '--config.processes.distributed=off runs without others'
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


@contextlib.contextmanager
def _bounded(seconds: float) -> Iterator[None]:
  """End this process with code 69 if the block takes longer; JAX would abort it with 134."""

  def leave():
    line = f'mixer-jax: the processes met, but JAX did not connect them within {seconds:g} s'
    os.write(2, f'{line}: did one end meanwhile?\n'.encode())
    os._exit(_APART)

  timer = threading.Timer(seconds, leave)
  timer.daemon = True
  timer.start()
  try:
    yield
  finally:
    timer.cancel()


_PEER_LOST = ('Gloo', 'UNAVAILABLE', 'DEADLINE_EXCEEDED', 'heartbeat', 'barrier')
"""Words of JAX and its transports where another process does not answer."""


def is_peer_lost(error: BaseException) -> bool:
  """Return True for an error that JAX raises because another process has exited."""
  return any(sign in str(error) for sign in _PEER_LOST) and not is_alone()


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
  """Return the result of `make` in every process; if it fails in one, all of them exit.

  Raises:
    UserError: `make` rejected its input here, or in another process.
    StorageError: `make` could not read or write now, in another process.
    ApartError: `make` failed for another reason, in another process.
    Exception: what `make` raised here.
  """
  if is_alone():
    return make()
  from jax.experimental import multihost_utils

  made, error = None, None
  try:
    made = make()
  except Exception as failure:  # the others would wait for this process
    error = failure
  kinds = multihost_utils.process_allgather(np.array(_kind_of(error))).ravel()
  if error is not None:
    raise error
  if kinds.any():
    kind = kinds[kinds > 0].min()
    refusal, what = _REFUSALS[kind]
    raise refusal(f'process {np.flatnonzero(kinds == kind)[0]} {what}: see its own message')
  return cast(T, made)


_REFUSALS = {
  1: (UserError, 'rejected its input'),
  2: (StorageError, 'cannot read or write now'),
  3: (ApartError, 'failed'),
}
_WRONG_PATHS = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


def _kind_of(error: Exception | None) -> int:
  """Return the key of `_REFUSALS`; 0: no error."""
  if error is None:
    return 0
  if isinstance(error, UserError):
    return 2 if isinstance(error, StorageError) else 1
  if isinstance(error, OSError):
    return 1 if isinstance(error, _WRONG_PATHS) else 2
  return 3


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
