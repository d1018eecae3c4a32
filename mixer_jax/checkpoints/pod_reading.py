"""Reads of a state by all processes of a pod, which return or fail alike."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from etils import epath

from mixer_jax.checkpoints import state_files
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.errors import ApartError, StorageError
from mixer_jax.parallel import processes

T = TypeVar('T')

_INTACT, _DAMAGED, _UNREAD = 'intact', 'damaged: ', 'unread: '
"""First words of a process's verdict on a state."""


def read(path: epath.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """Return the parts of a state. All processes call it, and all return or raise alike.

  Raises:
    DamagedError: it is damaged, for this process or another.
    StorageError: it cannot be read now, by this process or another.
  """
  metadata = agreed(path, lambda: state_files.read_metadata(path))

  def read_arrays() -> dict[str, Any]:
    state_files.check_description(path, metadata['digests'])
    return state_files.read_arrays(path, abstract)

  parts = agreed(path, read_arrays)
  with _peers_named(path):
    state_files.verify(parts, metadata['digests'])
  return parts


def agreed(path: epath.Path, read: Callable[[], T]) -> T:
  """Return `read()` in each process; where it fails in one, it fails in all, as in `read`."""
  found, verdict = None, _INTACT
  try:
    found = read()
  except DamagedError as error:
    verdict = f'{_DAMAGED}{error}'
  except StorageError as error:
    verdict = f'{_UNREAD}{error}'
  with _peers_named(path):
    gathered = processes.gathered(f'{state_files.operations()} {verdict}')
  counts, verdicts = zip(*(text.split(' ', 1) for text in gathered), strict=True)
  state_files.skip_operations(max(map(int, counts)))
  for kind, failure in ((_UNREAD, StorageError), (_DAMAGED, DamagedError)):
    for other in (verdict, *verdicts):
      if other.startswith(kind):
        raise failure(other.removeprefix(kind))
  return cast(T, found)


@contextlib.contextmanager
def _peers_named(path: epath.Path) -> Iterator[None]:
  try:
    yield
  except DamagedError:
    raise
  except Exception as error:
    if processes.is_peer_lost(error):
      raise ApartError(f'{path} is read by all processes, and one has exited') from error
    raise
