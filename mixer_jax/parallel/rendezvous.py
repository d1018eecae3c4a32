"""The meeting of all processes before `jax.distributed` connects them.

JAX aborts a process (a C++ stack, code 134) whose peers do not come, and Python cannot prevent it.
So they meet here first, at the coordinator's port, which JAX uses afterwards: process 0 counts who
has come, and reports to all who is missing.

A process sends one line, `mixer_jax INDEX COUNT HOST:PID`. Once a second it receives another:
`wait TEXT`, `go`, `apart TEXT` or `wrong TEXT`.
"""

import collections
import contextlib
import errno
import logging
import os
import selectors
import socket
import threading
import time

from mixer_jax.errors import ApartError, UserError
from mixer_jax.parallel.membership import Membership

log = logging.getLogger(__name__)

_LONGEST_LINE = 1000
_TICK = 1.0  # seconds between two answers
_LOST = 15.0  # seconds without an answer after which process 0 counts as gone
_GRACE = 5.0  # seconds that a process waits for process 0's verdict after its own limit
_REMINDER = 30.0  # seconds between two lines of the log
_START_ALL = (
  'start all with the same command, and let them connect to process 0; '
  '--config.processes.start_seconds allows more time'
)


def meet(member: Membership, seconds: float) -> None:
  """Wait until all processes have come.

  Raises:
    ApartError: some did not within `seconds`; names them.
    UserError: they were not started for the same pod.
  """
  end = time.monotonic() + seconds
  host = None
  if member.index == 0:
    host = _Host(_listen(member, end), member, seconds, end)
    host.start()
  _join(member, seconds, end + _GRACE)
  if host:
    host.join()  # it has closed the port


def missing(present: set[int], count: int) -> str:
  """Return 'process 1 of 2', or 'processes 1, 3-7 of 9', of those that are not `present`."""
  ranges: list[list[int]] = []
  for index in sorted(set(range(count)) - present):
    if ranges and ranges[-1][1] == index - 1:
      ranges[-1][1] = index
    else:
      ranges.append([index, index])
  shown = ', '.join(str(a) if a == b else f'{a}-{b}' for a, b in ranges[:10])
  more = ', …' if len(ranges) > 10 else ''
  word = 'process' if count - len(present) == 1 else 'processes'
  return f'{word} {shown}{more} of {count}'


def _listen(member: Membership, end: float) -> socket.socket:
  """Return process 0's socket; waits for the port, which an earlier process may still hold."""
  warned = False
  while True:
    try:
      if socket.has_dualstack_ipv6():
        address = ('', member.port)
        return socket.create_server(
          address, family=socket.AF_INET6, dualstack_ipv6=True, backlog=1024
        )
      return socket.create_server(('', member.port), backlog=1024)
    except OSError as error:
      message = f'port {member.port} of this machine cannot be used: {error.strerror}'
      if error.errno in (errno.EACCES, errno.EPERM):
        raise UserError(f'{message}; choose a port above 1023 for process 0') from error
      if time.monotonic() + _TICK > end:
        raise ApartError(f'{message}; end the program that uses it') from error
      if not warned:
        log.warning('%s; trying again', message)
      warned = True
      time.sleep(_TICK)


def _join(member: Membership, seconds: float, end: float) -> None:
  """Connect to process 0 and wait for its verdict; process 0 does the same."""
  hello = f'mixer_jax {member.index} {member.count} {socket.gethostname()}:{os.getpid()}\n'
  heard = ''
  while time.monotonic() < end:
    try:
      with socket.create_connection((member.host, member.port), timeout=_LOST) as connection:
        connection.sendall(hello.encode())
        for line in connection.makefile(encoding='utf-8', errors='replace'):
          word, _, text = line.rstrip('\n').partition(' ')
          if word == 'go':
            return
          if word == 'wrong':
            raise UserError(text)
          if word == 'apart':
            raise ApartError(text)
          if word != 'wait':
            heard = 'another program answers there'
            break
          heard = text
          if time.monotonic() >= end:
            raise ApartError(f'{text}, after {seconds:g} s: {_START_ALL}')
        else:
          heard = 'it ended the connection'
    except OSError as error:
      heard = error.strerror or str(error)
    time.sleep(max(0.0, min(_TICK, end - time.monotonic())))
  if member.index == 0:
    raise ApartError(f'{member.address} does not lead to this host, process 0: {heard}')
  raise ApartError(
    f'process 0 of {member.count} did not come within {seconds:g} s ({member.address}: {heard}): '
    'start it, and let this host connect to that port'
  )


class _Host(threading.Thread):
  """The side of process 0: counts who has come, and answers all of them."""

  def __init__(self, listener: socket.socket, member: Membership, seconds: float, end: float):
    super().__init__(daemon=True)
    self._listener = listener
    self._count = member.count
    self._seconds = seconds
    self._end = end
    self._selector = selectors.DefaultSelector()
    self._buffers: dict[socket.socket, bytes] = {}
    self._came: dict[socket.socket, tuple[int, str]] = {}  # the number, and HOST:PID
    self._wrong = ''
    self._twice_before: set[int] = set()

  def run(self) -> None:
    self._listener.setblocking(False)
    self._selector.register(self._listener, selectors.EVENT_READ)
    next_tick = next_reminder = time.monotonic() + _TICK
    with self._listener, self._selector:
      while True:
        for key, _ in self._selector.select(max(0.0, next_tick - time.monotonic())):
          self._receive(key.fileobj)
        now = time.monotonic()
        verdict = self._verdict(now)
        if verdict:
          break
        if now >= next_tick:
          who = f'{missing(self._present(), self._count)} did not come yet'
          self._answer(f'wait {who}')
          self._find_twins()
          if now >= next_reminder + _REMINDER:
            log.info('waiting: %s', who)
            next_reminder = now
          next_tick = now + _TICK
    # The port must be free before process 0 learns that JAX can have it.
    self._answer(verdict)
    for connection in self._buffers:
      connection.close()

  def _present(self) -> set[int]:
    return {index for index, _ in self._came.values()}

  def _verdict(self, now: float) -> str:
    """Return the last answer, or '' to wait."""
    if self._wrong:
      return f'wrong {self._wrong}'
    present = self._present()
    if len(present) == self._count == len(self._came):
      return 'go'
    if now < self._end:
      return ''
    who = missing(present, self._count)
    return f'apart {who} did not come within {self._seconds:g} s: {_START_ALL}'

  def _find_twins(self) -> None:
    """Find numbers that two processes have. A broken connection may look like that for a moment."""
    numbers = collections.Counter(index for index, _ in self._came.values())
    twice = {index for index, times in numbers.items() if times > 1}
    for index in sorted(twice & self._twice_before):
      who = sorted(name for number, name in self._came.values() if number == index)
      self._wrong = f'{" and ".join(who[:2])} were both started as process {index}: number them'
      break
    self._twice_before = twice

  def _receive(self, source) -> None:
    if source is self._listener:
      try:
        connection, _ = self._listener.accept()
      except OSError:
        return
      connection.setblocking(False)
      self._selector.register(connection, selectors.EVENT_READ)
      self._buffers[connection] = b''
      return
    try:
      data = source.recv(_LONGEST_LINE)
    except BlockingIOError:
      return
    except OSError:
      data = b''
    self._buffers[source] += data
    line, end, _ = self._buffers[source].partition(b'\n')
    if (
      not data
      or len(self._buffers[source]) > _LONGEST_LINE
      or (end and not self._enter(source, line))
    ):
      self._drop(source)

  def _enter(self, source: socket.socket, line: bytes) -> bool:
    """Return True if the line is a process's."""
    words = line.decode('utf-8', 'replace').split(' ')
    if len(words) != 4 or words[0] != 'mixer_jax' or not (words[1] + words[2]).isdecimal():
      return False
    index, count = int(words[1]), int(words[2])
    if count != self._count or index >= count:
      self._wrong = (
        f'process 0 was started as one of {self._count}, and {words[3]} as number {index} of '
        f'{count}: start them alike'
      )
    else:
      self._came[source] = index, words[3]
    return True

  def _drop(self, source: socket.socket) -> None:
    if source in self._buffers:
      self._selector.unregister(source)
      del self._buffers[source]
      self._came.pop(source, None)
      source.close()

  def _answer(self, line: str) -> None:
    """Send a line to all; to process 0 last, since its exit ends this thread."""
    order = sorted(self._buffers, key=lambda one: self._came.get(one, (1, ''))[0] == 0)
    for connection in order:
      # A connection that is broken, or not read, is no longer one of ours.
      with contextlib.suppress(OSError):
        connection.sendall(f'{line}\n'.encode())
