"""The folder of a run: which run it is, kept in `config.json` beside its states."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath
from ml_collections import ConfigDict

from mixer_jax.errors import UserError

_CONFIG = 'config.json'

# Fields that change how a run is watched and kept, or where it runs, not what it computes.
_FREE = (
  'log_every',
  'eval_every',
  'eval_batch_size',
  'checkpoint_every',
  'keep_checkpoints',
  'tensorboard',
  'fewshot.',
  'data.data_dir',
  'data.undecodable',
  'data.threads',
  'data.prefetch',
  'mesh.',
  'processes.',
)
# Where evaluations decide which state is the best, and when to stop, they are a part of it.
_DECIDE = ('eval_every', 'fewshot.')


def stored_run(workdir) -> dict[str, Any] | None:
  """{'config': …, 'model': …} of the run in `workdir`; None where there is none.

  Raises:
    UserError: there is one, and it cannot be read.
  """
  path = epath.Path(workdir) / _CONFIG
  if not path.exists():
    return None
  try:
    run = json.loads(path.read_text())
    config, model = run['config'], run['model']
  except (ValueError, KeyError, TypeError) as error:
    raise UserError(f'{path} is damaged ({error}): take another --workdir') from error
  if not isinstance(config, dict) or not isinstance(model, dict):
    raise UserError(f'{path} is not of this project: take another --workdir')
  return {'config': config, 'model': model}


def check_free(workdir) -> None:
  """Raises `UserError` if there are states in `workdir` that no `config.json` speaks of."""
  folder = epath.Path(workdir) / 'checkpoints'
  if folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir()):
    raise UserError(f'{workdir} holds states but no {_CONFIG}: take another --workdir')


@contextlib.contextmanager
def held(workdir) -> Iterator[None]:
  """Keeps other processes of this machine out of a local workdir; a bucket cannot be held.

  Raises:
    UserError: another process of this machine holds it.
  """
  if '://' in str(epath.Path(workdir)):
    yield
    return
  descriptor = os.open(workdir, os.O_RDONLY)
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    yield
  except BlockingIOError as error:
    raise UserError(f'another process is training in {workdir}: wait for its end') from error
  finally:
    os.close(descriptor)


def check_same_run(workdir, config: ConfigDict, stored: dict[str, Any]) -> None:
  """Raises `UserError` if the run in `workdir` computes something else than `config` says."""
  new, old = flat(config.to_dict()), flat(stored['config'])
  names = sorted(new.keys() | old.keys())
  free = _FREE
  if new.get('keep_best') or new.get('early_stopping.patience'):
    free = tuple(name for name in _FREE if name not in _DECIDE)
  other = [n for n in names if new.get(n) != old.get(n) and not n.startswith(free)]
  if other:
    name = other[0]
    more = f' and {len(other) - 1} more differ' if len(other) > 1 else ''
    raise UserError(
      f'{workdir} holds another run: its config.{name} is {old.get(name)!r}, not '
      f'{new.get(name)!r}{more}; take another --workdir, or its settings'
    )


def write_run(workdir, config: ConfigDict, model: dict[str, Any]) -> None:
  """Makes `workdir` this run's. Whole or not at all."""
  try:
    text = json.dumps({'config': config.to_dict(), 'model': model}, indent=2) + '\n'
  except TypeError as error:
    raise UserError(f'the config holds something that is no plain value: {error}') from error
  folder = epath.Path(workdir)
  was_there = folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  aside = folder / f'{_CONFIG}.tmp'
  try:
    aside.write_text(text)
    aside.replace(folder / _CONFIG)
  except OSError as error:
    aside.unlink(missing_ok=True)
    if not was_there:
      folder.rmdir()
    raise UserError(f'{folder} cannot be written: {error.strerror or error}') from error


def flat(fields: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Dotted name -> value of all fields of a stored config."""
  found = {}
  for name, value in fields.items():
    found |= flat(value, f'{prefix}{name}.') if isinstance(value, dict) else {prefix + name: value}
  return found
