"""The data that a run began with, kept next to its states: `data.json.gz` in its workdir.

The file holds the classes and the contents (files with their sizes; for a data set of TFDS its
version, splits and sizes) of all images of the run, and a digest of the initial weights. A run is
resumed with the same contents, wherever they are. Runs of earlier versions do not have the file:
it is written when they are resumed.
"""

import gzip
import json
import logging
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixer_jax.checkpoints.run_states import newest_metadata
from mixer_jax.checkpoints.state_format import format_of, stamp
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError, one_line, printable
from mixer_jax.paths import write_whole
from mixer_jax.runlog.metrics import MetricsFile
from mixer_jax.runs.data_changes import Changes
from mixer_jax.runs.experiment import Experiment
from mixer_jax.runs.places import is_same_place
from mixer_jax.runs.workdir import creating, has_steps
from mixer_jax.storage import read_file

log = logging.getLogger(__name__)

_FILE = 'data.json.gz'
# Errors of gzip, the JSON parser, and of what was parsed.
_DAMAGED = (
  OSError, EOFError, zlib.error, ValueError, RecursionError, KeyError, TypeError, AttributeError,
)  # fmt: skip


def check_data(workdir, experiment: Experiment, stored: Mapping[str, Any] | None) -> None:
  """Checks that the data are those that the run in `workdir` began with; for one process.

  Data of a run that begins, and changed data that are accepted, are recorded.

  Args:
    stored: the run in `workdir`, see `workdir.stored_run`; None if it begins.

  Raises:
    UserError: the classes are others; or files were added, removed or renamed, and
      `config.data.changed` is 'refuse'.
    StorageError: the record cannot be read or written now.
  """
  path = epath.Path(workdir) / _FILE
  config = experiment.config
  if stored is None or not has_steps(workdir):
    initial = experiment.initial_params
    _write(path, experiment, _contents(experiment), initial and initial.digest())
    return
  record = _read(path)
  if record is None:
    _check_unrecorded(workdir, experiment, stored)
    _write(path, experiment, _contents(experiment), None)
    return
  _check_classes(workdir, experiment.source, record['classes'])
  _check_initial(workdir, experiment, stored, record)
  old, new = stored['config']['data']['name'], config.data.name
  contents = _contents(experiment)
  changes = Changes.between(record['contents'], contents)
  if changes is None:
    if not is_same_place(old, new):
      log.info('the data of the run are the same in %s as they were in %s', new, old)
    return
  text = f'the data in {printable(new)} changed since the run began: {changes}'
  if not is_same_place(old, new):
    text = f'the data in {printable(new)} are not those of {printable(old)}: {changes}'
  if config.data.changed != 'accept':
    raise UserError(
      f'{text}; restore them, or continue with the data as they are by --config.data.changed=accept'
    )
  log.warning('%s; accepted', text)
  step = (newest_metadata(workdir) or {'step': 0})['step']
  row = {'event': 'data_changed', 'step': step, 'data': new, **changes.as_fields()}
  MetricsFile(workdir).write(row)
  _write(path, experiment, contents, record.get('init'))


def _check_unrecorded(workdir, experiment: Experiment, stored: Mapping[str, Any]) -> None:
  """Checks what a run of an earlier version knows of its data: the classes of its states."""
  config, old = experiment.config, stored['config']
  metadata = newest_metadata(workdir)
  if metadata and metadata.get('classes'):
    _check_classes(workdir, experiment.source, metadata['classes'])
  began_with = {'data.name': old['data']['name'], 'init_from': old['init_from']}
  now = {'data.name': config.data.name, 'init_from': config.init_from}
  for field, name in began_with.items():
    if is_same_place(name, now[field]):
      continue
    unknown = (
      f'the run in {workdir} has no record of the content of {name}, with which it began, so '
      f'{now[field]} cannot be compared with it'
    )
    if config.data.changed != 'accept':
      raise UserError(
        f'{unknown}: give config.{field} as it was, or --config.data.changed=accept if they are '
        'the same'
      )
    log.warning('%s: accepted', unknown)
  log.info('%s: the data are recorded in %s from now on', workdir, _FILE)


def _check_classes(workdir, source: Source, known: Sequence[str]) -> None:
  """Raises `UserError` unless the classes, in their order, are the known ones."""
  names = list(source.classes)
  if names == list(known):
    return
  where = next((i for i, (a, b) in enumerate(zip(known, names, strict=False)) if a != b), None)
  text = f'{len(names)}, not {len(known)}'
  if where is not None:
    text = f'class {where} is {names[where]!r}, not {known[where]!r}'
  raise UserError(
    f'{printable(source.name)} has other classes than the run in {workdir} began with: '
    f'{printable(text)}; restore their names, or take another --workdir'
  )


def _check_initial(workdir, experiment: Experiment, stored, record: Mapping[str, Any]) -> None:
  """Raises `UserError` if `init_from` is another checkpoint than the run began with."""
  old, new = stored['config']['init_from'], experiment.config.init_from
  if is_same_place(old, new):
    return
  initial = experiment.initial_params
  if initial is None or record.get('init') is None or initial.digest() != record['init']:
    raise UserError(
      f'{workdir} holds another run: its config.init_from is {old!r}, and {new!r} is not known to '
      'have the same weights; take another --workdir, or its settings'
    )


def _contents(experiment: Experiment) -> dict[str, Any]:
  """Return the contents of all images of the run, whatever they are for."""
  sources, contents = experiment.sources(), {}
  root = lambda source: getattr(source.records, 'root', '')
  for role, source in zip(('', 'evaluation: ', 'test: '), sources, strict=False):
    prefix = '' if root(source) == root(sources[0]) else role  # of another folder
    contents |= {f'{prefix}{name}': value for name, value in source.contents().items()}
  return contents


def _read(path: epath.Path) -> dict[str, Any] | None:
  """Return the record; None if there is none, or a damaged one."""
  try:
    data = read_file(path, limit=None)
  except (FileNotFoundError, NotADirectoryError):
    return None
  try:
    record = json.loads(gzip.decompress(data))
    if not isinstance(record['contents'], dict) or not isinstance(record['classes'], list):
      raise ValueError('it is no record of data')
  except _DAMAGED as error:
    raise UserError(
      f'{path} is damaged ({one_line(error)}): remove it to continue without a comparison of the '
      'data with those that the run began with'
    ) from error
  format_of(path, record)
  return record


def _write(
  path: epath.Path, experiment: Experiment, contents: Mapping[str, Any], initial: str | None
) -> None:
  """Writes the record, completely or not at all."""
  record = {
    **stamp(),
    'init': initial,
    'classes': experiment.source.classes,
    'contents': contents,
  }
  data = gzip.compress(json.dumps(record).encode(), compresslevel=6, mtime=0)
  with creating(path):
    write_whole(path, data)
