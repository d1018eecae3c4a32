"""The states of a run on disk or in a bucket: saved in the background, verified when restored.

A state lies under `<workdir>/checkpoints/<step>` as Orbax wrote it, one folder a
part (`params`, `optimizer`), with a digest of every array and what else is needed
to use it alone (the model's configuration, class names) in Orbax's own metadata. There
it also names the step of the best state up to then, which is kept as long as it is named.
The only module that knows Orbax.
"""

import json
import logging
import zlib
from typing import Any

import jax
import numpy as np
from etils import epath
from orbax.checkpoint import v1 as ocp

from mixer_jax.checkpoints.digest import digest
from mixer_jax.errors import ApartError, NotFiniteError, StorageError, UserError

log = logging.getLogger(__name__)

_FOLDER = 'checkpoints'
_METADATA = '_CHECKPOINT_METADATA'  # Orbax's file in each step's folder

_REFUSALS = (
  'No space left on device',
  'Disk quota exceeded',
  'File too large',
  'Read-only file system',
  'Permission denied',
  'Not a directory',
)
"""What an operating system says, to be found in the long stories of those who asked it."""


_LEFT_ALONE = ('barrier', 'DEADLINE_EXCEEDED', 'UNAVAILABLE', 'heartbeat')
"""What Orbax and JAX say where another process does not answer."""


class DamagedError(Exception):
  """A step's folder does not hold what was saved; the message says what is wrong."""


class Store:
  """Saves and restores the states of one run. All processes call it alike.

  Args:
    workdir: folder of the run, local or `gs://bucket/folder`.
    keep: how many of the newest states stay, with the best states that they name.
  """

  def __init__(self, workdir, *, keep: int):
    self.directory = _absolute(workdir) / _FOLDER
    self.keep = keep
    self._pending: tuple[int, Any] | None = None
    self._best: dict[int, int | None] = {}  # that the state of a step names, where it is known
    if jax.process_index() == 0:
      self.directory.mkdir(parents=True, exist_ok=True)
      self._clear_leavings()

  def save(
    self, step: int, parts: dict[str, Any], metadata: dict[str, Any], *, best: int | None = None
  ) -> None:
    """Starts to write `parts` (name -> tree of arrays) as the state of `step`.

    Returns when the arrays have left the devices; they may then be donated. An
    earlier save that is still being written is awaited first. `best` is the step of the
    best state up to now, this or an earlier one, which is to be kept.

    Raises:
      NotFiniteError: an array is not finite (nothing is written).
      StorageError: the disk or bucket refuses.
    """
    self.wait()
    digests, broken = digest(parts)
    if broken:
      raise NotFiniteError(
        f'the state of step {step} is not finite (first: {broken[0]}): it was not saved; '
        'lower the learning rate or look at the data'
      )
    metadata = {**metadata, 'step': step, 'best_step': best, 'digests': digests}
    metadata['checksum'] = _checksum(metadata)
    try:
      self._check_writable()
      response = ocp.save_checkpointables_async(
        self.directory / str(step), parts, overwrite=True, custom_metadata=metadata
      )
    except Exception as error:
      raise self._refused(step, error) from error
    self._pending = (step, response)
    self._best[step] = best

  def wait(self) -> None:
    """Returns when the last save is safely written; raises its error if it failed."""
    if self._pending is None:
      return
    (step, response), self._pending = self._pending, None
    try:
      response.result()
    except Exception as error:
      self._clear_leavings()
      raise self._refused(step, error) from error
    if jax.process_index() == 0:
      known = [s for s in self.steps() if s <= step]
      named = {self._named_best(s) for s in known[-self.keep :]}
      for old in known[: -self.keep]:
        if old not in named:
          (self.directory / str(old)).rmtree()

  def _named_best(self, step: int) -> int | None:
    if step not in self._best:  # it was saved by an earlier start
      try:
        self._best[step] = read_metadata(self.directory / str(step)).get('best_step')
      except DamagedError:
        self._best[step] = None
    return self._best[step]

  def steps(self) -> list[int]:
    """Steps with a folder, oldest first. Whether they are whole, only a restore tells."""
    return _steps(self.directory)

  def restore(self, abstract: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
    """The newest state that verifies, as (step, parts); None in a new run.

    A damaged one is named in the log and passed over; once an older one is found, it is
    set aside as `<step>.damaged`. `abstract` has a `jax.ShapeDtypeStruct` with a sharding
    per leaf.

    Raises:
      UserError: there are states whose saves were finished, and none verifies.
    """
    passed_over: list[epath.Path] = []
    found, lost = None, []
    for step in reversed(self.steps()):
      path, fault, parts = self.directory / str(step), 'on another process', None
      try:
        parts = _read(path, abstract)
      except DamagedError as error:
        fault = str(error)
      if _all_agree(parts is not None) and parts is not None:
        found = step, parts
        break
      log.warning('checkpoint %s is damaged (%s): it is passed over', path, fault)
      passed_over.append(path)
      lost += [path] if _is_finished(path) else []
    if found is None and lost:
      raise UserError(
        f'every state in {self.directory} is damaged: take another --workdir, or remove this one'
      )
    if jax.process_index() == 0:
      for path in passed_over:
        _set_aside(path)
    _barrier('damaged states are set aside')
    return found

  def read(self, step: int, abstract: dict[str, Any]) -> dict[str, Any]:
    """The parts of one state that `abstract` names, as in `restore`.

    Raises:
      UserError: it is damaged.
    """
    parts, fault = None, 'on another process'
    try:
      parts = _read(self.directory / str(step), abstract)
    except DamagedError as error:
      fault = str(error)
    if not _all_agree(parts is not None) or parts is None:
      raise UserError(
        f'checkpoint {self.directory / str(step)} is damaged ({fault}): train anew, in another '
        '--workdir'
      )
    return parts

  def metadata(self, step: int) -> dict[str, Any]:
    """What `save` was given beside the state of this step."""
    return read_metadata(self.directory / str(step))

  def _check_writable(self):
    # Where Orbax cannot make a folder, its threads wait for it for five minutes.
    if jax.process_index() == 0:
      probe = self.directory / '.writable'
      probe.write_text('')
      probe.unlink()

  def _clear_leavings(self):
    """Takes away what saves that did not become whole have left."""
    if jax.process_index() == 0:
      for leaving in self.directory.glob('*.orbax-checkpoint-tmp*'):
        leaving.rmtree(missing_ok=True)

  def _refused(self, step: int, error: Exception) -> StorageError:
    text = ' '.join(str(error).split()) or type(error).__name__
    known = [reason for reason in _REFUSALS if reason in text]
    return StorageError(
      f'the state of step {step} could not be written to {self.directory}: '
      f'{known[0] if known else text[:300]}; saved states are whole, the same command goes on'
    )


def best_state(workdir) -> epath.Path:
  """The folder of the best state of a run, which the newest of its states names.

  Raises:
    UserError: the run does not keep it, or none of its states can be read.
  """
  folder = _absolute(workdir) / _FOLDER
  for step in reversed(_steps(folder)):
    try:
      best = read_metadata(folder / str(step)).get('best_step')
    except DamagedError as error:
      log.warning('checkpoint %s is damaged (%s): it is passed over', folder / str(step), error)
      continue
    if best:
      return folder / str(best)
    raise UserError(
      f'{workdir} keeps no best state: train with --config.keep_best=true, or take {workdir} alone '
      'for the newest'
    )
  raise UserError(f'{workdir} holds no checkpoint of this project')


def remove_states(workdir) -> None:
  """Removes all states of a run that nobody needs any more. One process calls it."""
  (_absolute(workdir) / _FOLDER).rmtree(missing_ok=True)


def read_params(path) -> tuple[dict[str, Any], dict]:
  """(metadata, params on the host) of a workdir's newest whole state, or of one step's folder.

  Raises:
    UserError: there is no state, or none that verifies.
  """
  path = _absolute(path)
  if (path / _METADATA).exists() or (path.name.isdigit() and not (path / _FOLDER).exists()):
    candidates = [path]
  else:
    folder = path / _FOLDER if (path / _FOLDER).exists() else path
    candidates = [folder / str(step) for step in reversed(_steps(folder))]
  faults = []
  for candidate in candidates:
    try:
      metadata = read_metadata(candidate)
      return metadata, _read(candidate, {'params': None})['params']
    except DamagedError as error:
      faults.append(f'{candidate} is damaged ({error})')
      log.warning('checkpoint %s: it is passed over', faults[-1])
  if faults:
    raise UserError(f'no state in {path} is whole; the newest: {faults[0]}')
  raise UserError(f'{path} holds no checkpoint of this project')


def read_metadata(path: epath.Path) -> dict[str, Any]:
  """What `Store.save` was given as metadata, and `step` and `digests`.

  Raises:
    DamagedError: there is nothing readable.
  """
  try:
    metadata = ocp.checkpointables_metadata(path).custom_metadata
  except Exception as error:  # Orbax answers damage with whatever its parts raise
    raise DamagedError(_first_line(error)) from error
  if not isinstance(metadata, dict) or metadata.pop('checksum', None) != _checksum(metadata):
    raise DamagedError('its metadata is not what was saved')
  if path.name.isdigit() and metadata['step'] != int(path.name):
    raise DamagedError(f'it is the state of step {metadata["step"]}')
  return metadata


def _checksum(metadata: dict[str, Any]) -> int:
  return zlib.crc32(json.dumps(metadata, sort_keys=True).encode())


def _read(path: epath.Path, abstract: dict[str, Any]) -> dict[str, Any]:
  """The parts named in `abstract`, each checked against its digests.

  A part whose abstract tree is None comes back whole, as NumPy arrays.
  """
  digests = read_metadata(path)['digests']
  try:
    parts = ocp.load_checkpointables(
      path, {name: _target(path, name, tree) for name, tree in abstract.items()}
    )
  except Exception as error:
    if jax.process_count() > 1 and any(sign in str(error) for sign in _LEFT_ALONE):
      raise ApartError(f'{path} is read by all processes, and one has left') from error
    raise DamagedError(_first_line(error)) from error
  found, _ = digest(parts)
  expected = {name: v for name, v in digests.items() if name.split('/')[0] in abstract}
  wrong = sorted(
    name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name)
  )
  if wrong:
    more = f' and {len(wrong) - 1} more' if len(wrong) > 1 else ''
    raise DamagedError(f'{wrong[0]}{more}: not the bits that were saved')
  return parts


def _target(path: epath.Path, name: str, tree):
  if tree is not None:
    return tree
  stored = ocp.checkpointables_metadata(path).metadata[name]
  return jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)


def _absolute(path) -> epath.Path:
  """As Orbax wants it; a bucket's path is so already."""
  path = epath.Path(path)
  return path if '://' in str(path) else path.absolute()


def _steps(folder: epath.Path) -> list[int]:
  if not folder.exists():
    return []
  names = [entry.name for entry in folder.iterdir() if entry.name.isdecimal()]
  return sorted(int(name) for name in names if str(int(name)) == name)


def _is_finished(path: epath.Path) -> bool:
  """Whether a save came to its end; a bucket has no rename, so there Orbax leaves a mark."""
  return (path / ('commit_success.txt' if '://' in str(path) else _METADATA)).exists()


def _set_aside(path: epath.Path):
  aside = path.parent / f'{path.name}.damaged'
  if aside.exists():
    aside.rmtree()
  path.rename(aside)


def _first_line(error: Exception) -> str:
  lines = str(error).strip().splitlines() or [type(error).__name__]
  return lines[0] if len(lines[0]) < 120 else lines[0][:117] + '…'


def _all_agree(ok: bool) -> bool:
  if jax.process_count() == 1:
    return ok
  from jax.experimental import multihost_utils

  return bool(multihost_utils.process_allgather(np.array(ok)).all())


def _barrier(name: str):
  if jax.process_count() > 1:
    from jax.experimental import multihost_utils

    multihost_utils.sync_global_devices(name)
