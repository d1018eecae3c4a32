"""The place of this process among those of its pod: set by a launcher, or found by JAX."""

import dataclasses
import importlib
import os
import re
from collections.abc import Sequence

from mixer_jax.errors import ApartError, UserError, one_line

COORDINATOR = 'MIXER_JAX_COORDINATOR'
"""host:port of process 0. Set by a launcher, with the next two."""
NUM_PROCESSES = 'MIXER_JAX_NUM_PROCESSES'
PROCESS_ID = 'MIXER_JAX_PROCESS_ID'

_ADDRESS = re.compile(r'([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+(?:%\w+)?\]):([0-9]{1,5})')
_MOST_PROCESSES = 100_000

_PROXIES = ('http_proxy', 'https_proxy', 'all_proxy', 'grpc_proxy')
_DIRECT = ('localhost', '127.0.0.1', '::1', 'metadata.google.internal', '169.254.169.254')


@dataclasses.dataclass(frozen=True)
class Membership:
  """Attributes:
  address: host:port at which process 0 listens; an IPv6 address is in brackets.
  count: number of processes.
  index: number of this one, from 0.
  local_device_ids: devices of this process, where several share a host; None: all of them.
  """

  address: str
  count: int
  index: int
  local_device_ids: Sequence[int] | None = None

  @property
  def host(self) -> str:
    """The name or IP address of process 0's host."""
    return self.address.rpartition(':')[0].strip('[]')

  @property
  def port(self) -> int:
    """The port of process 0."""
    return int(self.address.rpartition(':')[2])


def from_launcher() -> Membership | None:
  """Return what the environment variables of a launcher say; None if there are none.

  Raises:
    UserError: they are incomplete or wrong.
  """
  names = (COORDINATOR, NUM_PROCESSES, PROCESS_ID)
  address, count, index = (os.environ.get(name, '') for name in names)
  if not (address or count or index):
    return None
  if not _is_address(address):
    raise UserError(
      f'{COORDINATOR}={address!r} must be host:port of process 0, such as 10.0.0.2:8476 or '
      '[fd00::2]:8476, with a port in 1..65535; a launcher sets it in every process'
    )
  if not (_is_number(count) and 1 <= int(count) <= _MOST_PROCESSES):
    raise UserError(
      f'{NUM_PROCESSES}={count!r} must be the number of processes, in 1..{_MOST_PROCESSES}'
    )
  if not (_is_number(index) and int(index) < int(count)):
    raise UserError(
      f'{PROCESS_ID}={index!r} must be the number of this process, in 0..{int(count) - 1}'
    )
  return Membership(address, int(count), int(index))


def _is_address(text: str) -> bool:
  match = _ADDRESS.fullmatch(text)
  return match is not None and 1 <= int(match[2]) <= 65535


def _is_number(text: str) -> bool:
  return text.isascii() and text.isdecimal() and len(text) <= 6


def detected(seconds: int) -> Membership | None:
  """Return what JAX finds out on TPUs, and under Slurm, Open MPI and Kubernetes.

  None: this version of JAX does not say.

  Args:
    seconds: limit for the host of process 0 to get an address.

  Raises:
    UserError: this is none of these environments.
    ApartError: the network does not answer now.
  """
  bypass_proxies()
  try:
    detect = importlib.import_module(
      'jax._src.clusters'
    ).ClusterEnv.auto_detect_unset_distributed_params
  except (ImportError, AttributeError):  # not public
    return None
  try:
    address, count, index, devices = detect(None, None, None, None, None, seconds)
  except TypeError:  # another signature
    return None
  except Exception as error:  # of the metadata server, of DNS, and of many other kinds
    raise ApartError(
      f'the other processes cannot be found ({one_line(error)}): '
      '--config.processes.distributed=off runs without others'
    ) from error
  if address is None or count is None or index is None:
    raise UserError(
      f'neither a TPU slice nor a launcher assigns a number to this process: set {COORDINATOR}, '
      f'{NUM_PROCESSES} and {PROCESS_ID}, or --config.processes.distributed=off'
    )
  return Membership(address, count, index, devices)


def bypass_proxies(*hosts: str) -> None:
  """Connect to these hosts, this machine and the metadata server without a proxy.

  gRPC, which connects the processes, would ask the proxy of the environment for these as well.
  """
  if not any(os.environ.get(name) or os.environ.get(name.upper()) for name in _PROXIES):
    return
  names = ['no_proxy', 'NO_PROXY']
  if 'no_grpc_proxy' in os.environ:  # gRPC reads it instead of the other
    names.append('no_grpc_proxy')
  old = ','.join(os.environ.get(name, '') for name in names)
  before = [part.strip() for part in old.split(',') if part.strip()]
  every = ','.join(dict.fromkeys([*before, *_DIRECT, *hosts]))
  for name in names:
    os.environ[name] = every
