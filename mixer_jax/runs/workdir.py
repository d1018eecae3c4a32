"""The folder of a run: which run it is, kept in `config.json` next to its states.

A run claims its folder before it writes anything else. A local folder is locked, so that one
process of a machine trains there, and `config.json` is created only if there is none: of two first
starts one wins, in buckets and on file systems without locks as well.
"""

import contextlib
import dataclasses
import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from mixer_jax import models
from mixer_jax.checkpoints.state_format import format_of, stamp
from mixer_jax.errors import UserError, one_line
from mixer_jax.paths import create_whole, is_remote, write_whole
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs.config_versions import as_begun, stored_config
from mixer_jax.runs.fields import flatten
from mixer_jax.runs.places import are_folders, is_same_place, may_be_same_data
from mixer_jax.runs.run_config import RunConfig, affects_result, normalized
from mixer_jax.storage import names_in, read_file, reason, writing

log = logging.getLogger(__name__)

_CONFIG = 'config.json'

_NO_LOCKS = {errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EBADF, errno.EINVAL}
"""Errors of `flock` on file systems without locks. NFS has locks of files that can be written, and
says of a folder that its descriptor is bad."""


def stored_run(workdir) -> dict[str, Any] | None:
  """Return {'config': …, 'model': …, 'format': …} of the run in `workdir`; None if there is none.

  Fields that an earlier format did not have are filled in, see `config_versions`.

  Raises:
    UserError: it is damaged, or a newer version of mixer_jax wrote it.
    StorageError: it cannot be read now.
  """
  path = epath.Path(workdir) / _CONFIG
  try:
    data = read_file(path)
  except (FileNotFoundError, NotADirectoryError):
    return None
  try:
    run = json.loads(data)
    is_run = isinstance(run['config'], dict) and isinstance(run['model'], dict)
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(f'{path} is damaged ({one_line(error)}): take another --workdir') from error
  if not is_run:
    raise UserError(f'{path} is not of this project: take another --workdir')
  return {
    'config': stored_config(path, run),
    'model': run['model'],
    'format': format_of(path, run),
  }


def check_stored(workdir, config: RunConfig) -> dict[str, Any] | None:
  """Return what `stored_run` does, if a run of `config` may begin or resume in `workdir`.

  Returns:
    None if there is no run, or another one that ended before its first step: it may be replaced.

  Raises:
    UserError: `workdir` holds another run, or states of an unknown one.
    StorageError: it cannot be read now.
  """
  stored = stored_run(workdir)
  if stored is None:
    check_free(workdir)
    return None
  try:
    check_same_run(workdir, as_begun(config, stored), stored)
  except UserError:
    if has_steps(workdir):
      raise
    return None
  return stored


def has_steps(workdir) -> bool:
  """Return True if the run in `workdir` has a state, also a damaged one, or has logged a step."""
  is_step = lambda row: 'step' in row and 'event' not in row
  return _has_states(workdir) or any(map(is_step, read_metrics(workdir)))


def check_free(workdir) -> None:
  """Raises `UserError` if there are states in `workdir` but no `config.json`."""
  if _has_states(workdir):
    raise UserError(f'{workdir} holds states but no {_CONFIG}: take another --workdir')


def _has_states(workdir) -> bool:
  names = names_in(epath.Path(workdir) / 'checkpoints')
  return any(name.removesuffix('.damaged').isdigit() for name in names)


def check_same_run(workdir, config: RunConfig, stored: dict[str, Any]) -> None:
  """Raises `UserError` if the run in `workdir` computes other results than `config` describes.

  Two spellings of a path are the same. A folder of images or initial weights that may have been
  moved are accepted here: `runs.run_data` compares their content.
  """
  new, old = flatten(config.to_fields()), flatten(normalized(stored['config']))
  # Formats without a field of the model, or a config that leaves it to `init_from`.
  trained = _model_fields(workdir, stored)
  old |= {f'model.{name}': value for name, value in trained.items() if f'model.{name}' in new} | old
  differing = [
    name
    for name in sorted(new.keys() | old.keys())
    if new.get(name) != old.get(name)
    and affects_result(name, keeps_best=config.keeps_best)
    and not _may_be_same(name, old.get(name), new.get(name))
  ]
  if differing:
    name = differing[0]
    more = f', and {len(differing) - 1} more differ' if len(differing) > 1 else ''
    more += f' ({", ".join(differing[1:6])})' if more else ''
    advice = 'take another --workdir, or its settings'
    if _has_states(workdir) and all(map(_is_of_schedule, differing)):
      advice = (
        'its settings resume it; to train its weights further with others, take another --workdir '
        f'with --config.init_from={workdir} --config.init_head=keep, where the optimizer, the '
        'schedule and the steps begin again'
      )
    raise UserError(
      f'{workdir} holds another run: its config.{name} is {old.get(name)!r}, not '
      f'{new.get(name)!r}{more}; {advice}'
    )


def _is_of_schedule(name: str) -> bool:
  """Return True for a field that may be another one in a run that begins with trained weights."""
  return name.startswith('optimizer.') or name in (
    *('total_steps', 'total_epochs', 'batch_size', 'accumulate', 'mixup', 'mixup_per'),
    *('keep_best', 'early_stopping.metric', 'early_stopping.patience', 'eval_every'),
  )


def _model_fields(workdir, stored: dict[str, Any]) -> dict[str, Any]:
  try:
    return dataclasses.asdict(models.config_from(stored['model']))
  except (TypeError, ValueError) as error:
    raise UserError(
      f'{epath.Path(workdir) / _CONFIG} holds no model of this project ({one_line(error)}): take '
      'another --workdir'
    ) from error


def _may_be_same(name: str, old: Any, new: Any) -> bool:
  """Return True for a field that names a place, if both values may name the same content."""
  if not isinstance(old, str) or not isinstance(new, str):
    return False
  if name == 'init_from':
    return bool(old and new)
  if name == 'data.name':
    return may_be_same_data(old, new)
  if name in ('data.eval_split', 'data.test_split'):  # another folder
    return are_folders(old, new)
  is_name = name == 'fewshot.name' or (name.startswith('evals.') and name.endswith('.name'))
  return is_name and is_same_place(old, new)


@contextlib.contextmanager
def claimed(workdir, config: RunConfig, model: models.ModelConfig) -> Iterator[dict | None]:
  """Makes `workdir` this run's and keeps other processes of this machine out; for one process.

  Yields:
    What `stored_run` returned before; None if the run begins here.

  Raises:
    UserError: another process trains there, or it holds another run.
    StorageError: it cannot be read or written now.
  """
  folder = epath.Path(workdir)
  was_there = folder.exists()
  with creating(folder):
    folder.mkdir(parents=True, exist_ok=True)
  with held(folder):
    try:
      stored = check_stored(folder, config)  # another start may have been faster
      if stored is None:
        _write_run(folder, config, model)
      elif models.config_from(stored['model']) != model:
        raise UserError(f'{folder} was begun by another process just now: start this one again')
    except BaseException:
      if not was_there:
        with contextlib.suppress(OSError, ValueError):  # epath: it is not empty
          folder.rmdir()
      raise
    yield stored


@contextlib.contextmanager
def held(workdir) -> Iterator[None]:
  """Keeps other processes of this machine out of a local workdir; a bucket cannot be locked.

  Raises:
    UserError: another process of this machine holds it.
  """
  if is_remote(epath.Path(workdir)):
    yield
    return
  with creating(workdir):
    descriptor = os.open(workdir, os.O_RDONLY)
  try:
    _lock(workdir, descriptor)
    yield
  finally:
    os.close(descriptor)


def _lock(workdir, descriptor: int) -> None:
  try:
    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError as error:
    raise UserError(f'another process is training in {workdir}: wait for its end') from error
  except OSError as error:
    if error.errno not in _NO_LOCKS:
      raise
    log.warning(
      '%s is on a file system without locks (%s): start one process at a time there',
      workdir,
      reason(error),
    )


def _write_run(folder: epath.Path, config: RunConfig, model: models.ModelConfig) -> None:
  """Writes `config.json`, completely or not at all."""
  run = {**stamp(), 'config': config.to_fields(), 'model': dataclasses.asdict(model)}
  try:
    text = json.dumps(run, indent=2) + '\n'
  except TypeError as error:
    raise UserError(f'the config holds a value that JSON does not have: {error}') from error
  path = folder / _CONFIG
  with creating(path):
    if path.exists():
      log.warning('the run that was begun in %s ended before its first step: replaced', folder)
      write_whole(path, text)
      return
    try:
      create_whole(path, text)
    except FileExistsError as error:
      raise UserError(f'another process has just begun a run in {folder}') from error


@contextlib.contextmanager
def creating(path) -> Iterator[None]:
  """Turns errors of making a file into a `StorageError`, or a `UserError` of its place."""
  try:
    with writing(path):
      yield
  except OSError as error:
    raise UserError(f'{path} cannot be written: {reason(error)}') from error
