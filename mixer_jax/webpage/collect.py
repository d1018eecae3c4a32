"""Collect what the workdirs of runs and studies hold, and build the page from it."""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from etils import epath

from mixer_jax import models
from mixer_jax.checkpoints import published
from mixer_jax.errors import UserError, one_line
from mixer_jax.models import paper
from mixer_jax.paths import is_remote, user_path
from mixer_jax.runlog import metrics
from mixer_jax.runs import workdir
from mixer_jax.runs.fields import flatten
from mixer_jax.webpage import page, runs
from mixer_jax.webpage.page import Study
from mixer_jax.webpage.run_tables import Published
from mixer_jax.webpage.runs import Run

_MAX_BYTES = {'.json': 2**24, '.png': 2**23}
"""Size of the largest file of each kind that is put into the page."""
_MAX_LEVELS = 30  # of lists and groups in a JSON file
_MAX_DEPTH = 4  # folders between a study's folder and those of its runs
_MAX_ANCESTORS = 5  # runs in a chain of fine-tuned ones, each started from the one before
_PNG = b'\x89PNG\r\n\x1a\n'


class Document(NamedTuple):
  """A page, and what is on it.

  Attributes:
    html: the complete document.
    summary: '2 training runs and 1 study'.
  """

  html: str
  summary: str


def build_page(workdirs: Sequence[str | os.PathLike]) -> Document:
  """Build one page from workdirs of runs and studies.

  Args:
    workdirs: each is the workdir of a training run, or of a study with its JSON files, pictures
      and runs below it; local or gs://…

  Raises:
    UserError: one of them does not exist, or holds neither a run nor a study.
  """
  folders = list(dict.fromkeys(user_path(name) for name in workdirs))
  by_name = dict(zip(_short_names(folders), folders, strict=True))
  compared = [_read_run(name, folder) for name, folder in by_name.items() if _is_run(folder)]
  studies = [_read_study(name, folder) for name, folder in by_name.items() if not _is_run(folder)]
  html = page.build(compared, studies, {run.name: _paper_rows(run) for run in compared})
  return Document(html, page.summary(compared, studies))


def _short_names(folders: Sequence[epath.Path]) -> list[str]:
  """Each folder's last name, with as many of its parents as make it unique."""
  parts = [os.fspath(folder if is_remote(folder) else os.path.abspath(folder)).split('/')
           for folder in folders]  # fmt: skip
  for depth in range(1, max(map(len, parts), default=0) + 1):
    names = ['/'.join(part[-depth:]) for part in parts]
    if len(set(names)) == len(names):
      return names
  return ['/'.join(part) for part in parts]


def _is_run(folder: epath.Path) -> bool:
  return any((folder / name).exists() for name in (metrics.FILE_NAME, 'config.json'))


def _read_run(name: str, folder: epath.Path, *, with_pictures: bool = True) -> Run:
  faults = []
  config, model = {}, None
  try:
    stored = workdir.stored_run(folder)
    if stored is None:
      raise UserError(f'{folder} has no config.json')
    config = flatten(stored['config'])
    model_config = models.config_from(stored['model'])
    config |= flatten(dataclasses.asdict(model_config), 'model.')
    model = runs.Model(
      models.variant_of(model_config),
      models.base_variant(model_config),
      models.num_params(model_config),
      models.forward_flops(model_config) / 1e9,
    )
  except Exception as error:  # a file that is no config can lead to any of them
    faults.append(f'{name}: its settings cannot be read: {one_line(error)}')
  rows, damaged = metrics.rows_and_damaged(folder)
  valid = runs.valid_rows(rows)
  damaged += len(rows) - len(valid)
  if damaged:
    share = f'{damaged:,} of {len(valid) + damaged:,} rows of {metrics.FILE_NAME}'
    faults.append(
      f'{name}: {share} cannot be read and are left out (a run that is killed may leave half a row)'
    )
  pictures = _read_pictures(folder, faults, ['predictions.png']) if with_pictures else {}
  states = sorted(_damaged_states(folder))
  return Run(name, str(folder), config, model, valid, states, faults, pictures)


def _damaged_states(folder: epath.Path) -> Iterator[int]:
  states = folder / 'checkpoints'
  for entry in states.iterdir() if states.is_dir() else ():
    step, dot, kind = entry.name.partition('.')
    if (dot, kind) == ('.', 'damaged') and step.isdecimal():
      yield int(step)


def _read_study(name: str, folder: epath.Path) -> Study:
  if not folder.is_dir():
    raise UserError(f'no folder {folder}: name the workdir of a run or of a study')
  files = sorted(entry.name for entry in folder.iterdir())
  faults: list[str] = []
  figures = _read_figures(folder, faults, [file for file in files if file.endswith('.json')])
  pictures = _read_pictures(folder, faults, [file for file in files if file.endswith('.png')])
  below = sorted(_runs_below(folder, _MAX_DEPTH), key=str)
  if not figures and not below and not faults:
    raise UserError(
      f'{folder} holds no run and no study: it has neither metrics.jsonl nor .json files'
    )
  root = str(folder).rstrip('/')
  own = [_read_run(str(path)[len(root) + 1 :], path, with_pictures=False) for path in below]
  return Study(name, str(folder), figures, pictures, own, faults)


def _runs_below(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
  for entry in folder.iterdir() if depth else ():
    if entry.name.startswith('.') or not entry.is_dir():
      continue
    if _is_run(entry):
      yield entry
    else:
      yield from _runs_below(entry, depth - 1)


def _read_figures(folder: epath.Path, faults: list[str], names: Sequence[str]) -> dict[str, Any]:
  figures = {}
  for name in names:
    data = _read_bytes(folder / name, faults)
    try:
      if data is not None:
        values = json.loads(data)
        if _is_deeper(values, _MAX_LEVELS):
          raise ValueError(f'it has more than {_MAX_LEVELS} levels')
        figures[name] = values
    except (ValueError, RecursionError) as error:
      faults.append(f'{name} is left out: it is not JSON of figures ({one_line(error, 100)})')
  return figures


def _is_deeper(value: Any, levels: int) -> bool:
  """Return True if there are lists or groups in each other, more than `levels`."""
  inside = [value] if isinstance(value, dict | list) else []
  for _ in range(levels):
    groups = (item.values() if isinstance(item, dict) else item for item in inside)
    inside = [item for group in groups for item in group if isinstance(item, dict | list)]
  return bool(inside)


def _read_pictures(folder: epath.Path, faults: list[str], names: Sequence[str]) -> dict[str, bytes]:
  pictures = {}
  for name in names:
    data = _read_bytes(folder / name, faults)
    if data is not None and not data.startswith(_PNG):
      faults.append(f'{name} is left out: it is not a PNG')
    elif data:
      pictures[name] = data
  return pictures


def _read_bytes(path: epath.Path, faults: list[str]) -> bytes | None:
  """Return the content of a file; None where there is no file or it is too large to be shown."""
  try:
    if not path.exists() or path.is_dir():
      return None
    limit = _MAX_BYTES[path.suffix]
    if path.stat().length > limit:
      faults.append(f'{path.name} is left out: it is larger than {limit >> 20} MiB')
      return None
    return path.read_bytes()
  except OSError as error:
    faults.append(f'{path.name} is left out: {error.strerror or error}')
    return None


def _paper_rows(run: Run) -> list[Published]:
  """Return the paper's rows for the run's variant and pre-training data."""
  rows = paper.published(run.model.base_variant if run.model else '', _pretrained_on(run.config))
  return [{**row._asdict(), 'images': paper.IMAGES[row.data]} for row in rows]


def _pretrained_on(config: Mapping[str, Any]) -> str:
  """Return the data set that a run was first trained on, named as in the paper; '' if unknown."""
  for _ in range(_MAX_ANCESTORS):
    start = config.get('init_from', '')
    if not start:
      return str(config.get('data.name', '')).split(':')[0]
    if entry := published.find(start):
      return entry.pretrained_on or ''
    try:
      # A workdir, or a step in its `checkpoints`.
      places = [user_path(start), user_path(start).parent.parent]
      stored = next(filter(None, map(workdir.stored_run, places)), None)
    except (UserError, OSError):
      return ''
    if stored is None:
      return ''
    config = flatten(stored['config'])
  return ''
