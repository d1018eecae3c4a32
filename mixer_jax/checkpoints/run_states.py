"""The states of a run, found and read by others than the training that saves them."""

import contextlib
import logging
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from etils import epath

from mixer_jax import storage
from mixer_jax.checkpoints import state_files, state_metadata
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.errors import UserError
from mixer_jax.models import Weights, join
from mixer_jax.paths import is_remote

log = logging.getLogger(__name__)

_FOLDER = 'checkpoints'


def folder_of(workdir) -> epath.Path:
  """Return the folder of a run's states."""
  return _absolute(workdir) / _FOLDER


def steps_in(folder: epath.Path) -> list[int]:
  """Return the steps that have a folder in the folder of a run's states, oldest first."""
  names = [name for name in storage.names_in(folder) if name.isdecimal()]
  return sorted(int(name) for name in names if str(int(name)) == name)


def newest_metadata(workdir) -> dict[str, Any] | None:
  """Return the metadata of the newest state of a run that has readable ones; None if none has."""
  folder = folder_of(workdir)
  for step in reversed(steps_in(folder)):
    try:
      return state_files.read_metadata(folder / str(step))
    except DamagedError as error:
      log.warning('checkpoint %s is damaged (%s): it is skipped', folder / str(step), error)
  return None


def best_state(workdir) -> epath.Path:
  """Return the folder of the best state of a run, which the newest of its states names.

  Raises:
    UserError: the run does not keep it, or none of its states can be read.
  """
  metadata = newest_metadata(workdir)
  if metadata is None:
    raise UserError(f'{workdir} holds no checkpoint of this project')
  if not metadata.get('best_step'):
    raise UserError(
      f'{workdir} keeps no best state: train with --config.keep_best=true, or take {workdir} alone '
      'for the newest'
    )
  return folder_of(workdir) / str(metadata['best_step'])


def has_states(workdir) -> bool:
  """Return True if a run has states, intact or not."""
  return bool(steps_in(folder_of(workdir)))


def remove_states(workdir) -> None:
  """Remove all states of a run. Only one process calls it."""
  folder_of(workdir).rmtree(missing_ok=True)


class SavedState(NamedTuple):
  """A state that was read.

  Attributes:
    weights: on the host; params, with the model state where the model has any.
    path: folder of its step.
  """

  metadata: dict[str, Any]
  weights: Weights
  path: epath.Path


def is_state(path) -> bool:
  """Return True for the folder of a step, False for that of a run or of its states."""
  path = _absolute(path)
  return (path / state_files.METADATA).exists() or (
    path.name.isdigit() and not (path / _FOLDER).exists()
  )


def read_params(path, *, newest: bool = False) -> SavedState:
  """Return one state of a run.

  Of a run that keeps its best state it is that one, by which the run is reported; else the newest.
  A damaged state is logged and skipped: then it is what the state before names.

  Args:
    path: a workdir, its folder of states, or the folder of a step.
    newest: take the newest state of any run.

  Raises:
    UserError: there is no state, or none that verifies.
  """
  path = _absolute(path)
  folder = path / _FOLDER if (path / _FOLDER).exists() else path
  faults = []
  for candidate in [path] if is_state(path) else _in_turn(folder, newest):
    try:
      return SavedState(*_read_on_host(candidate), candidate)
    except DamagedError as error:
      faults.append(f'{candidate} is damaged ({error})')
      log.warning('checkpoint %s: it is skipped', faults[-1])
  if not faults:
    raise UserError(f'{path} holds no checkpoint of this project')
  if not is_state(path) and len(faults) < len(steps_in(folder)):
    raise UserError(
      f'no best state of {path} is intact: {faults[0]}; {path}/newest is its newest state'
    )
  raise UserError(f'no state in {path} is intact; the newest: {faults[0]}')


def _in_turn(folder: epath.Path, newest: bool) -> Iterator[epath.Path]:
  """Yield the states of a run, the newest first; or what each names as the best until then."""
  tried = set()
  for step in reversed(steps_in(folder)):
    chosen = step
    if not newest:
      with contextlib.suppress(DamagedError):  # it is found again when the state is read
        chosen = state_files.read_metadata(folder / str(step)).get('best_step') or step
    if chosen not in tried:
      tried.add(chosen)
      yield folder / str(chosen)


def _read_on_host(path: epath.Path) -> tuple[dict[str, Any], Weights]:
  """Return (metadata, weights) of one state in this process alone, once they fit each other."""
  metadata = state_files.read_metadata(path)
  try:
    config = state_metadata.model_of(metadata)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  named = {name.partition('/')[0] for name in metadata['digests']}
  stored = {
    part: state_files.stored_shapes(path, part) for part in ('params', *(named & {'model_state'}))
  }
  state_metadata.check_arrays(config, stored['params'], stored.get('model_state', {}))
  empty = jax.tree.map(lambda leaf: np.empty(leaf.shape, leaf.dtype), stored)
  parts = state_files.read_arrays(path, empty)
  state_files.verify(parts, metadata['digests'])
  return metadata, join(parts['params'], parts.get('model_state', {}))


def _absolute(path) -> epath.Path:
  """Return an absolute path, which Orbax needs; a bucket's path is one."""
  path = epath.Path(path)
  return path if is_remote(path) else path.absolute()
