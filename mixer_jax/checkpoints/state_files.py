"""One state: a folder of arrays and metadata, which Orbax writes and reads.

Reading has three ends: the state; `DamagedError`, where bytes that were read are wrong; and
`StorageError`, where they cannot be read now. No other module uses Orbax.
"""

import asyncio
import contextlib
import errno
import json
import os
from collections.abc import Coroutine, Iterator
from typing import Any

import jax
from etils import epath
from orbax.checkpoint import v1 as ocp
from orbax.checkpoint._src import asyncio_utils
from orbax.checkpoint._src.futures.synchronization import OperationIdGenerator

from mixer_jax import storage
from mixer_jax.checkpoints import state_metadata
from mixer_jax.checkpoints.digest import digest
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.models.parameters import flatten
from mixer_jax.paths import is_regular, is_remote, write_whole

METADATA = '_CHECKPOINT_METADATA'
"""Orbax's file in each step's folder."""

_LONGEST = 16 * 2**20
"""Maximum bytes of the metadata: 294 arrays and 21,843 classes take 1/3 MiB."""

_PASSING = (
  *map(os.strerror, (
    errno.EACCES, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOTCONN, errno.EPERM,
    errno.ESTALE, errno.ETIMEDOUT, errno.ECONNREFUSED, errno.ECONNRESET, errno.EHOSTUNREACH,
    errno.ENETUNREACH,
  )),
  'DEADLINE_EXCEEDED', 'PERMISSION_DENIED', 'RESOURCE_EXHAUSTED', 'UNAUTHENTICATED', 'UNAVAILABLE',
)  # fmt: skip
"""Words of the system and of TensorStore, in Orbax's long messages, for errors that may pass."""


def start_write(path: epath.Path, parts: dict[str, Any], metadata: dict[str, Any]):
  """Start to write a state; returns Orbax's response when the arrays have left the devices."""
  return ocp.save_checkpointables_async(path, parts, overwrite=True, custom_metadata=metadata)


def read_metadata(path: epath.Path) -> dict[str, Any]:
  """Return the metadata of a state; see `state_metadata.parse`.

  Raises:
    DamagedError: it is not what was saved.
    StorageError: it cannot be read now.
  """
  try:
    data = storage.read_file(path / METADATA, _LONGEST)
  except storage.NOT_THERE as error:
    raise DamagedError(f'{METADATA} is missing') from error
  except StorageError:
    raise
  except UserError as error:  # a pipe, or too long
    raise DamagedError(str(error)) from error
  return state_metadata.parse(data, path.name)


def write_metadata(path: epath.Path, metadata: dict[str, Any]) -> None:
  """Replace the metadata of a state that is saved; its arrays stay as they are.

  Raises:
    StorageError: the disk or bucket refuses; the metadata before is intact.
  """
  content = json.loads(storage.read_file(path / METADATA, _LONGEST))
  write_whole(path / METADATA, json.dumps({**content, 'custom_metadata': metadata}))


def read_arrays(path: epath.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """Return the parts of a state that `abstract` names, not compared with their digests.

  Each process of a pod reads its own shards and waits for no other.

  Args:
    abstract: name -> tree of `jax.ShapeDtypeStruct` with shardings; or of NumPy arrays, to be
      filled.

  Raises:
    DamagedError: they are not what was saved.
    StorageError: they cannot be read now.
  """
  read = lambda: _load(path, abstract)
  try:
    return storage.read_retried(path, read)
  except DamagedError:  # perhaps by an error that has passed and was not recognised
    return storage.read_retried(path, read)


def stored_shapes(path: epath.Path, part: str) -> Any:
  """Return the tree of a part with leaves that have a shape and dtype; reads no array."""
  with _without_peers():
    return storage.read_retried(
      path, lambda: _outcome(path, lambda: ocp.checkpointables_metadata(path).metadata[part])
    )


def check_description(path: epath.Path, digests: dict[str, int]) -> None:
  """Compare the names of weights in Orbax's description of a state with those of the digests.

  Arrays can be read without it if their names are known. Then a state whose description is
  damaged would be intact for a training run, and damaged for everybody else.

  Raises:
    DamagedError: they differ.
    StorageError: it cannot be read now.
  """
  for part in ('params', 'model_state'):
    expected = {name for name in digests if name.startswith(f'{part}/')}
    if expected:
      found = {f'{part}/{name}' for name in flatten(stored_shapes(path, part) or {})}
      if wrong := sorted(expected ^ found):
        raise DamagedError(f'its description and its digests differ in {wrong[0]}')


def verify(parts: dict[str, Any], digests: dict[str, int]) -> None:
  """Compare arrays with their digests. All processes of a pod call it, with the same verdict.

  Raises:
    DamagedError: naming the first array that is not what was saved.
  """
  found, _ = digest(parts)
  expected = {name: value for name, value in digests.items() if name.split('/')[0] in parts}
  wrong = sorted(
    name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
  )
  if wrong:
    more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    raise DamagedError(f'{wrong[0]}{more}: not the bits that were saved')


def operations() -> int:
  """Return the number of Orbax's operations in this process, which names its barriers."""
  return int(OperationIdGenerator.get_current_operation_id())


def skip_operations(number: int) -> None:
  """Count on to `number`. Where a read fails or is tried again, processes differ in their count,
  and the next save would wait for ever.
  """
  while operations() < number:
    OperationIdGenerator.next_operation_id()


def _load(path: epath.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  for file in [] if is_remote(path) else _files(path):
    if not is_regular(file):  # a pipe would block, and a device has no end
      raise DamagedError(f'{file.name} in it is not a regular file')
  with _without_peers():
    return _outcome(path, lambda: ocp.load_checkpointables(path, abstract))


def _without_peers() -> contextlib.AbstractContextManager:
  """Make Orbax read in this process of a pod alone, without barriers."""
  if jax.process_count() == 1:
    return contextlib.nullcontext()
  own = jax.process_index()
  return ocp.Context(
    multiprocessing_options=ocp.options.MultiprocessingOptions(
      primary_host=None, active_processes={own}, barrier_sync_key_prefix=f'process_{own}'
    )
  )


def _outcome(path: epath.Path, read) -> Any:
  """Return `read()`; its errors become a `DamagedError`, or an `OSError` if they may pass."""
  try:
    return read()
  except Exception as error:  # Orbax passes on whatever its parts raise
    text = one_line(error, 10_000)
    if signs := [sign for sign in _PASSING if sign in text]:
      raise OSError(errno.EIO, signs[0]) from error
    for file in _files(path):  # Orbax calls a file that cannot be read missing
      with file.open('rb') as opened:
        while opened.read(2**22):
          pass
    raise DamagedError(_first_line(error)) from error


def _files(folder: epath.Path) -> Iterator[epath.Path]:
  """Yield what is in a folder and its folders, and is none itself; links are not followed."""
  for entry in folder.iterdir():
    if not entry.is_dir():
      yield entry
    elif not os.path.islink(entry):
      yield from _files(entry)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0] if len(lines[0]) < 120 else lines[0][:117] + '…'


def _finish_reads() -> None:
  """Make Orbax wait for the other reads of an event loop in which one has failed.

  It closes the loop at once, and TensorStore's threads then print a traceback for each read that
  ends: 'Event loop is closed'.
  """
  run_sync = asyncio_utils.run_sync

  async def finished(work: Coroutine) -> Any:
    try:
      return await work
    except BaseException:
      others = asyncio.all_tasks() - {asyncio.current_task()}
      await asyncio.gather(*others, return_exceptions=True)
      raise

  asyncio_utils.run_sync = lambda work: run_sync(finished(work))


_finish_reads()
