"""The states of a run, found and read by others than the training that saves them."""

import logging
from typing import Any

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


def read_params(path) -> tuple[dict[str, Any], Weights]:
  """Return (metadata, weights on the host) of a workdir's newest intact state, or of one step.

  The weights are params, with the model state where the model has any.

  Args:
    path: a workdir, its folder of states, or the folder of a step.

  Raises:
    UserError: there is no state, or none that verifies.
  """
  path = _absolute(path)
  if (path / state_files.METADATA).exists() or (
    path.name.isdigit() and not (path / _FOLDER).exists()
  ):
    candidates = [path]
  else:
    folder = path / _FOLDER if (path / _FOLDER).exists() else path
    candidates = [folder / str(step) for step in reversed(steps_in(folder))]
  faults = []
  for candidate in candidates:
    try:
      return _read_on_host(candidate)
    except DamagedError as error:
      faults.append(f'{candidate} is damaged ({error})')
      log.warning('checkpoint %s: it is skipped', faults[-1])
  if faults:
    raise UserError(f'no state in {path} is intact; the newest: {faults[0]}')
  raise UserError(f'{path} holds no checkpoint of this project')


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
