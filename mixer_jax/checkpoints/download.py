"""Downloads: a file into a folder of this machine, complete or not at all."""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator

from etils import epath

from mixer_jax.errors import UserError, one_line
from mixer_jax.paths import BUCKETS, is_remote

log = logging.getLogger(__name__)

_CHUNK = 2**14
"""Bytes; the part of a chunk that came before a connection broke is lost."""
_CONNECT_SECONDS, _SILENCE_SECONDS = 10, 60
_RETRIES, _MOST_RETRIES = 5, 100
"""Maximum number in a row without a chunk in between, and of all."""
_SLOWEST = (2**16, 120)
"""A connection that brings fewer bytes than the first in these seconds counts as broken."""
_STALLED_SECONDS = 180
"""Limit of waiting for another process that downloads the same file and receives nothing."""


class UnreachableError(Exception):
  """The server does not answer, or not with the file; the message says why.

  Args:
    may_pass: another try may work.
  """

  def __init__(self, reason: str, *, may_pass: bool = False):
    super().__init__(reason)
    self.may_pass = may_pass


class _Interrupted(Exception):
  """The download broke and can be resumed.

  Args:
    answered: the server is there, so that another try is worthwhile before anything came.
  """

  def __init__(self, reason: str, *, answered: bool = False):
    super().__init__(reason)
    self.answered = answered


def download(url: str, target: pathlib.Path, check: Callable[[int], None]) -> pathlib.Path:
  """Download `url` to a part file next to `target`, resuming an earlier attempt.

  The caller checks and renames it. Only one process of a machine downloads a file at a
  time; it must hold `held(target)`.

  Args:
    url: `https://…`, `http://…` or `gs://…`.
    target: final path of the file.
    check: called with its length in bytes before any of it is read.

  Raises:
    UnreachableError: no answer, no such file, or the connection broke again and again.
    UserError: what `check` raises; the disk is full.
  """
  part = part_of(target)
  tries, reason, received = 0, '', 0
  for _ in range(_MOST_RETRIES):
    have, answered = _size(part), True
    try:
      with _open(url, have) as (total, start, chunks):
        check(total)
        if start != have:  # the server starts from 0, or the part is longer than the file
          part.unlink(missing_ok=True)
        if start in (0, have):
          _check_room(part, total - start)
          if _append(part, start, total, chunks, target.name):
            return part
          reason = 'the connection broke'
        else:
          reason = 'the server answers with another part of the file than it was asked for'
    except _Interrupted as error:
      reason, answered = str(error), error.answered
    now = _size(part)
    received += max(0, now - have)
    tries = 1 if now - have >= _CHUNK else tries + 1
    if tries > _RETRIES or not (received or answered):
      break
    log.warning('%s: %s; resuming at %.1f MiB', target.name, reason, now / 2**20)
    time.sleep(min(2.0 ** (tries - 1), 30.0) if tries > 1 else 0.0)
  raise UnreachableError(reason, may_pass=True)


def _size(part: pathlib.Path) -> int:
  return part.stat().st_size if part.exists() else 0


def part_of(target: pathlib.Path) -> pathlib.Path:
  """Path of a file that is not complete. It keeps its suffix, so that it can be read."""
  return target.with_name(f'.part-{target.name}')


@contextlib.contextmanager
def held(target: pathlib.Path) -> Iterator[None]:
  """Keep other processes from downloading the same file; wait while one does.

  Raises:
    UserError: the other process makes no progress.
  """
  target.parent.mkdir(parents=True, exist_ok=True)
  with target.with_name(f'.lock-{target.name}').open('w') as lock:
    size, changed, is_logged = -1, time.monotonic(), False
    while True:
      try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        break
      except BlockingIOError:
        if not is_logged:
          log.info('%s: another process downloads it; waiting', target.name)
          is_logged = True
      now = part_of(target).stat().st_size if part_of(target).exists() else -1
      if now != size:
        size, changed = now, time.monotonic()
      if time.monotonic() - changed > _STALLED_SECONDS:
        raise UserError(
          f'{target}: another process downloads it and makes no progress: end that one'
        )
      time.sleep(0.2)
    yield


def _append(part: pathlib.Path, start: int, total: int, chunks: Iterator[bytes], name: str) -> bool:
  """Append the chunks; return True if the part is complete then."""
  from tqdm import tqdm

  size = start
  # disable=None: no bar where the output is no terminal.
  bar = tqdm(
    total=total,
    initial=start,
    unit='iB',
    unit_scale=True,
    unit_divisor=1024,
    desc=name,
    disable=None,
  )
  least, seconds = _SLOWEST
  mark, marked = size, time.monotonic()
  with bar, part.open('ab') as file:
    for chunk in chunks:
      size += len(chunk)
      if time.monotonic() - marked > seconds:
        if size - mark < least:
          raise _Interrupted('hardly anything arrives', answered=True)
        mark, marked = size, time.monotonic()
      if size > total:
        part.unlink()
        raise UnreachableError(f'it is longer than the {total} bytes that were announced')
      file.write(chunk)
      bar.update(len(chunk))
    file.flush()
    os.fsync(file.fileno())
  return size == total


def _check_room(part: pathlib.Path, needed: int) -> None:
  free = shutil.disk_usage(part.parent).free
  if needed > free:
    raise UserError(
      f'{part.parent} has {free / 2**20:.0f} MiB left, {needed / 2**20:.0f} are needed: free some '
      'space, or name another folder with MIXER_JAX_CACHE'
    )


Opened = tuple[int, int, Iterator[bytes]]
"""Length of the file, offset of the chunks, chunks."""


def _open(url: str, have: int) -> contextlib.AbstractContextManager[Opened]:
  if url.startswith(('https://', 'http://')):
    return _open_http(url, have)
  if is_remote(url) and not url.startswith(BUCKETS):
    raise UnreachableError(f'files are not downloaded from {url.partition("://")[0]}://')
  return contextlib.nullcontext(_open_bucket(url, have))


@contextlib.contextmanager
def _open_http(url: str, have: int) -> Iterator[Opened]:
  import requests

  headers = {'Accept-Encoding': 'identity', **({'Range': f'bytes={have}-'} if have else {})}
  limits = (_CONNECT_SECONDS, _SILENCE_SECONDS)
  try:
    answer = requests.get(url, headers=headers, stream=True, timeout=limits)
  except (requests.exceptions.ConnectionError, requests.exceptions.Timeout) as error:
    raise _Interrupted('no connection') from error
  except (requests.exceptions.RequestException, ValueError) as error:  # such as a malformed address
    raise UnreachableError(one_line(error, 150)) from error
  with answer:
    if answer.status_code == 206 and 'Content-Range' not in answer.headers and have:
      with _open_http(url, 0) as opened:  # it does not support ranges after all
        yield opened
      return
    total, start = _span(answer, have)

    def chunks() -> Iterator[bytes]:
      try:
        yield from answer.iter_content(_CHUNK)
      except requests.exceptions.RequestException as error:
        raise _Interrupted('the connection broke', answered=True) from error

    yield total, start, iter(()) if answer.status_code == 416 else chunks()


def _span(answer, have: int) -> tuple[int, int]:
  """Return (length of the file, offset of the bytes) that an answer announces."""
  status = f'the server answers {answer.status_code} {answer.reason}'
  if answer.status_code >= 500 or answer.status_code == 429:
    raise _Interrupted(status, answered=True)
  if answer.status_code not in ((200, 206, 416) if have else (200,)):
    raise UnreachableError(status)
  if answer.headers.get('Content-Encoding', 'identity') != 'identity':
    raise UnreachableError('the server sends it compressed, and was asked not to')
  try:
    if answer.status_code == 200:
      return int(answer.headers['Content-Length']), 0
    span, _, total = answer.headers['Content-Range'].removeprefix('bytes ').partition('/')
    if answer.status_code == 416:  # the part is complete, or too long
      return int(total), int(total)
    return int(total), int(span.partition('-')[0])
  except (KeyError, ValueError) as error:
    raise UnreachableError('the server does not say its length') from error


def _open_bucket(url: str, have: int) -> Opened:
  path = epath.Path(url)
  try:
    total = path.stat().length
  except FileNotFoundError as error:
    raise UnreachableError('it is not there') from error
  except Exception as error:  # whatever the bucket's client raises
    raise _Interrupted(one_line(error, 150)) from error

  def chunks() -> Iterator[bytes]:
    try:
      with path.open('rb') as file:
        file.seek(have)
        yield from iter(lambda: file.read(_CHUNK), b'')
    except Exception as error:
      raise _Interrupted(one_line(error, 150)) from error

  return (total, have, chunks()) if have <= total else (total, total, iter(()))
