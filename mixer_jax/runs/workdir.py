"""The folder of a run: which run it is, kept in `config.json` next to its states."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from mixer_jax.checkpoints.state_format import format_of, stamp
from mixer_jax.errors import UserError
from mixer_jax.paths import is_remote, write_whole
from mixer_jax.runs.config_versions import as_begun, stored_config
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.run_config import RunConfig, affects_result, normalized

_CONFIG = 'config.json'


def stored_run(workdir) -> dict[str, Any] | None:
  """Return {'config': …, 'model': …} of the run in `workdir`; None if there is none.

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
  return {'config': stored_config(path, run), 'model': model, 'format': format_of(path, run)}


def check_stored(workdir, config: RunConfig) -> dict[str, Any] | None:
  """Return what `stored_run` does, if a run of `config` may begin or resume in `workdir`.

  Raises:
    UserError: `workdir` holds another run, or states of an unknown one.
  """
  stored = stored_run(workdir)
  if stored:
    check_same_run(workdir, as_begun(config, stored), stored)
  else:
    check_free(workdir)
  return stored


def check_free(workdir) -> None:
  """Raises `UserError` if there are states in `workdir` but no `config.json`."""
  folder = epath.Path(workdir) / 'checkpoints'
  if folder.is_dir() and any(entry.name.isdigit() for entry in folder.iterdir()):
    raise UserError(f'{workdir} holds states but no {_CONFIG}: take another --workdir')


def check_same_run(workdir, config: RunConfig, stored: dict[str, Any]) -> None:
  """Raises `UserError` if the run in `workdir` computes other results than `config` describes."""
  new, old = flatten(config.to_fields()), flatten(normalized(stored['config']))
  differing = [
    name
    for name in sorted(new.keys() | old.keys())
    if new.get(name) != old.get(name) and affects_result(name, keeps_best=config.keeps_best)
  ]
  if differing:
    name = differing[0]
    more = f', and {len(differing) - 1} more differ' if len(differing) > 1 else ''
    raise UserError(
      f'{workdir} holds another run: its config.{name} is {old.get(name)!r}, not '
      f'{new.get(name)!r}{more}; take another --workdir, or its settings'
    )


@contextlib.contextmanager
def held(workdir) -> Iterator[None]:
  """Keeps other processes of this machine out of a local workdir; a bucket cannot be locked.

  Raises:
    UserError: another process of this machine holds it.
  """
  if is_remote(epath.Path(workdir)):
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


def write_run(workdir, config: RunConfig, model: dict[str, Any]) -> None:
  """Makes `workdir` this run's, completely or not at all."""
  try:
    text = json.dumps({**stamp(), 'config': config.to_fields(), 'model': model}, indent=2) + '\n'
  except TypeError as error:
    raise UserError(f'the config holds a value that JSON does not have: {error}') from error
  folder = epath.Path(workdir)
  was_there = folder.exists()
  folder.mkdir(parents=True, exist_ok=True)
  try:
    write_whole(folder / _CONFIG, text)
  except OSError as error:
    if not was_there:
      folder.rmdir()
    raise UserError(f'{folder} cannot be written: {error.strerror or error}') from error
