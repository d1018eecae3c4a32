"""`mixer-jax report`: runs and studies on one page of HTML, beside the paper's figures."""

import dataclasses
import json
import os
from collections.abc import Iterator
from typing import Any

from etils import epath

from mixer_jax import models
from mixer_jax.checkpoints import published
from mixer_jax.commands import flags
from mixer_jax.errors import UserError
from mixer_jax.models import paper
from mixer_jax.paths import user_path
from mixer_jax.runlog import console, metrics
from mixer_jax.runs import workdir
from mixer_jax.runs.fields import flatten
from mixer_jax.webpage import page, runs
from mixer_jax.webpage.page import Study
from mixer_jax.webpage.run_tables import Published
from mixer_jax.webpage.runs import Run

_LARGEST = {'.json': 2**24, '.png': 2**23}
"""Bytes of a file that comes into the page."""
_DEEPEST = 4  # folders between that of a study and those of its runs
_MOST_BEGUN = 5  # runs that one was fine-tuned from, one from the other
_PNG = b'\x89PNG\r\n\x1a\n'


def main(argv: list[str]) -> None:
  """Each WORKDIR is that of a run, or of a study with its figures, pictures and runs below it."""
  parser = flags.Parser('report', __doc__ or '')
  parser.add_argument(
    'workdirs',
    nargs='+',
    metavar='WORKDIR',
    help='of a training run, or of a study such as those of permute; local or gs://…',
  )
  parser.add_argument(
    '--output', default='report.html', metavar='FILE', help='- is stdout (report.html)'
  )
  args = parser.parse_flags(argv)
  terminal = console.setup_console()
  flags.check_targets({'output': args.output})
  folders = list(dict.fromkeys(user_path(name) for name in args.workdirs))
  named = dict(zip(_short(folders), folders, strict=True))
  compared = [_run(name, folder) for name, folder in named.items() if _is_run(folder)]
  studies = [_study(name, folder) for name, folder in named.items() if not _is_run(folder)]
  rows = {run.name: _published(run) for run in compared}
  document = page.build(compared, studies, rows)
  flags.write(args.output, document)
  if args.output != '-':
    terminal.say(f'{args.output} has {page.counted(compared, studies)}')


def _short(folders: list[epath.Path]) -> list[str]:
  """Each folder's last name, and as many above it as tell it from the others."""
  parts = [os.fspath(folder if '://' in str(folder) else os.path.abspath(folder)).split('/')
           for folder in folders]  # fmt: skip
  for depth in range(1, max(map(len, parts)) + 1):
    names = ['/'.join(part[-depth:]) for part in parts]
    if len(set(names)) == len(names):
      break
  return names


def _is_run(folder: epath.Path) -> bool:
  return any((folder / name).exists() for name in (metrics.FILE_NAME, 'config.json'))


def _run(name: str, folder: epath.Path, *, with_pictures: bool = True) -> Run:
  faults = []
  fields, model = {}, None
  try:
    stored = workdir.stored_run(folder)
    if stored is None:
      raise UserError(f'{folder} has no config.json')
    fields = flatten(stored['config'])
    config = models.config_from(stored['model'])
    fields |= flatten(dataclasses.asdict(config), 'model.')
    model = runs.Model(
      models.variant_of(config), models.num_params(config), models.forward_flops(config) / 1e9
    )
  except Exception as error:  # whatever a file that is no config leads to
    faults.append(f'{name}: its settings are not known: {" ".join(str(error).split())}')
  rows, damaged = metrics.rows_and_damaged(folder)
  sound = runs.sound_rows(rows)
  damaged += len(rows) - len(sound)
  if damaged:
    known = f'{damaged:,} of {len(sound) + damaged:,} rows of {metrics.FILE_NAME}'
    faults.append(
      f'{name}: {known} cannot be read (a run that is killed may leave half a row): left out'
    )
  pictures = _pictures(folder, faults, ['predictions.png']) if with_pictures else {}
  states = sorted(_damaged_states(folder))
  return Run(name, str(folder), fields, model, sound, states, faults, pictures)


def _damaged_states(folder: epath.Path) -> Iterator[int]:
  states = folder / 'checkpoints'
  for entry in states.iterdir() if states.is_dir() else ():
    step, dot, kind = entry.name.partition('.')
    if (dot, kind) == ('.', 'damaged') and step.isdecimal():
      yield int(step)


def _study(name: str, folder: epath.Path) -> Study:
  if not folder.is_dir():
    raise UserError(f'no folder {folder}: name the workdir of a run or of a study')
  files = sorted(entry.name for entry in folder.iterdir())
  faults: list[str] = []
  figures = _figures(folder, faults, [file for file in files if file.endswith('.json')])
  pictures = _pictures(folder, faults, [file for file in files if file.endswith('.png')])
  below = sorted(_below(folder, _DEEPEST), key=str)
  if not figures and not below and not faults:
    raise UserError(f'{folder} holds no run and no study: no metrics.jsonl and no .json is there')
  root = str(folder).rstrip('/')
  own = [_run(str(path)[len(root) + 1 :], path, with_pictures=False) for path in below]
  return Study(name, str(folder), figures, pictures, own, faults)


def _below(folder: epath.Path, depth: int) -> Iterator[epath.Path]:
  """The runs below a folder."""
  for entry in folder.iterdir() if depth else ():
    if entry.name.startswith('.') or not entry.is_dir():
      continue
    if _is_run(entry):
      yield entry
    else:
      yield from _below(entry, depth - 1)


def _figures(folder: epath.Path, faults: list[str], names: list[str]) -> dict[str, Any]:
  figures = {}
  for name in names:
    data = _bytes(folder / name, faults)
    try:
      if data is not None:
        figures[name] = json.loads(data)
    except (ValueError, RecursionError) as error:
      faults.append(f'{name} is left out: it is no JSON ({str(error)[:100]})')
  return figures


def _pictures(folder: epath.Path, faults: list[str], names: list[str]) -> dict[str, bytes]:
  pictures = {}
  for name in names:
    data = _bytes(folder / name, faults)
    if data is not None and not data.startswith(_PNG):
      faults.append(f'{name} is left out: it is no PNG')
    elif data:
      pictures[name] = data
  return pictures


def _bytes(path: epath.Path, faults: list[str]) -> bytes | None:
  """What is in a file; None where there is none, or it is too large to be shown."""
  try:
    if not path.exists() or path.is_dir():
      return None
    most = _LARGEST[path.suffix]
    if path.stat().length > most:
      faults.append(f'{path.name} is left out: it has more than {most >> 20} MiB')
      return None
    return path.read_bytes()
  except OSError as error:
    faults.append(f'{path.name} is left out: {error.strerror or error}')
    return None


def _published(run: Run) -> list[Published]:
  """The paper's rows of the run's variant, pre-trained on what it was."""
  variant = run.model.variant.split(' grown')[0] if run.model else ''
  rows = paper.published(variant, _pretrained_on(run.config))
  return [{**row._asdict(), 'images': paper.IMAGES[row.data]} for row in rows]


def _pretrained_on(config: Any) -> str:
  """The data set that a run began on, by the names of the paper's; '' where none can be told."""
  for _ in range(_MOST_BEGUN):
    begun = config.get('init_from', '')
    if not begun:
      return str(config.get('data.name', '')).split(':')[0]
    if entry := published.find(begun):
      return entry.pretrained_on or ''
    try:
      # A workdir, or a step in its `checkpoints`.
      places = [user_path(begun), user_path(begun).parent.parent]
      stored = next(filter(None, map(workdir.stored_run, places)), None)
    except (UserError, OSError):
      return ''
    if stored is None:
      return ''
    config = flatten(stored['config'])
  return ''
