"""A run with faults drawn from a seed, and the supervisor that starts it again after each."""

import contextlib
import dataclasses
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import cv2
import numpy as np

from mixer_jax.checkpoints.store import read_params
from mixer_jax.models.parameters import flatten
from mixer_jax.runlog.metrics import read_metrics
from tests.helpers import train_runs

STEPS = 24
FLAGS = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint_every=4',
  '--config.eval_every=6',
  '--config.log_every=1',
  '--config.keep_checkpoints=3',
  '--config.model.dropout=0.1',
)
FAULTS_FOLDER = pathlib.Path(__file__).parent / 'faults'

PASSING_CODES = {
  'kill': {-signal.SIGKILL},
  'save': {-signal.SIGKILL},
  'end': {-signal.SIGKILL},
  'term': {75},
  'usr1': {75},
  'hup': {75},
  'int': {130},
  'disk': {74},
  'full': {74},
  'readonly': {74},
  'limit': {74},
  'passing': {0},
  'unreadable': {74},
}
"""Faults of a running process (see `faults/sitecustomize.py`) and the exit codes after them."""

MAY_PASS = {'full', 'readonly', 'limit', 'term', 'usr1', 'hup', 'int', 'disk', 'unreadable'}
"""Faults that come too late if nothing is left to write, read or stop; the run then ends well."""


@dataclasses.dataclass(frozen=True)
class Variant:
  """A kind of run. `flags` are added to those of all."""

  name: str
  flags: tuple[str, ...]
  reads_folder: bool = False


VARIANTS = (
  Variant('records', ()),
  Variant(
    'best',
    (
      '--config.keep_best=true',
      '--config.mixup=0.5',
      '--config.data.threads=2',
      '--config.data.randaugment_layers=2',
      '--config.data.randaugment_magnitude=10',
    ),
  ),
  Variant(
    'folder',
    (
      '--config.data.undecodable=skip',
      '--config.data.threads=2',
      '--config.data.train_split=train[:80%]',
      '--config.data.eval_split=train[80%:]',
      '--config.model.num_classes=2',
    ),
    reads_folder=True,
  ),
  Variant('tensorboard', ('--config.tensorboard=true', '--config.accumulate=2')),
)


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault drawn from the seed: of a running process after `step`, or at rest (`step` 0)."""

  kind: str
  step: int
  seed: int


class Place:
  """Folders of one run, on a file system of its own where it can be mounted."""

  def __init__(self, root: pathlib.Path, data_dir: pathlib.Path, images: pathlib.Path):
    self.root, self.data_dir, self.images = root, data_dir, images
    self.cache, self.disk = root / 'cache', root / 'disk'
    self.disk.mkdir(parents=True)
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', str(self.disk)]
    self.is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    self.workdir = self.disk / 'run'

  def heal(self) -> None:
    """Make the disk writable, and give its space back."""
    if self.is_mounted:
      subprocess.run(['mount', '-o', 'remount,rw', str(self.disk)], check=True)
    (self.disk / 'filler').unlink(missing_ok=True)

  def start(self, variant: Variant, fault: Fault | None = None) -> subprocess.Popen:
    """Start the run, with a fault if one is given; its mark is made when it strikes."""
    environment = {
      **os.environ,
      'PYTHONPATH': os.pathsep.join((str(FAULTS_FOLDER), str(train_runs.ROOT))),
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
      'JAX_COMPILATION_CACHE_DIR': str(self.cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'MIXER_JAX_RETRY_SECONDS': '2',
      'FULL_DISK': str(self.disk),
      'READ_FROM': str(self.images if variant.reads_folder else self.data_dir),
    }
    if fault:
      environment['FAULT'] = f'{fault.kind} 0 {fault.step} {self.mark(fault)}'
    data = (f'--config.data.name=folder:{self.images}',) if variant.reads_folder else ()
    flags = (*FLAGS, *variant.flags, *data)
    return subprocess.Popen(
      [sys.executable, '-m', 'mixer_jax', *train_runs.flags(self.workdir, self.data_dir, *flags)],
      cwd=train_runs.ROOT,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def mark(self, fault: Fault) -> pathlib.Path:
    """Return the file that says that a fault struck."""
    return self.root / f'{fault.kind}-{fault.step}'

  def states(self) -> list[pathlib.Path]:
    """Return the folders of the run's finished saves, oldest first."""
    folder = self.workdir / 'checkpoints'
    if not folder.is_dir():
      return []
    return sorted((p for p in folder.iterdir() if p.name.isdigit()), key=lambda p: int(p.name))


@contextlib.contextmanager
def place(root: pathlib.Path, data_dir: pathlib.Path, images: pathlib.Path) -> Iterator[Place]:
  """Return a `Place`; its file system is gone afterwards."""
  made = Place(root, data_dir, images)
  try:
    yield made
  finally:
    if made.is_mounted:
      subprocess.run(['umount', '--lazy', str(made.disk)], check=True)


def finished(process: subprocess.Popen, seconds: float = 240) -> tuple[int, str]:
  """Return (exit code, output) of a process that must end within a limit."""
  try:
    output, _ = process.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    process.kill()
    output, _ = process.communicate()
    raise AssertionError(f'a start hangs: {output}') from None
  assert 'Traceback' not in output, output
  return process.returncode, output


def make_images(folder: pathlib.Path) -> pathlib.Path:
  """Write two classes of 60 small images, with one that does not decode."""
  rng = np.random.default_rng(0)
  for name, level in (('dark', 60), ('light', 180)):
    (folder / name).mkdir(parents=True)
    for i in range(60):
      image = np.clip(rng.normal(level, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
      assert cv2.imwrite(str(folder / name / f'{i:02}.png'), image)
  (folder / 'dark' / '07.png').write_bytes(b'no image')
  return folder


def _file_of(state: pathlib.Path, rng: random.Random) -> pathlib.Path:
  files = sorted(path for path in state.rglob('*') if path.is_file() and path.stat().st_size)
  return rng.choice(files)


def _flip(path: pathlib.Path, rng: random.Random) -> None:
  data = bytearray(path.read_bytes())
  data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
  path.write_bytes(data)


def _cut(path: pathlib.Path, rng: random.Random) -> None:
  os.truncate(path, rng.randrange(path.stat().st_size))


def _in_a_state(place: Place, rng: random.Random, change: Callable) -> bool:
  states = place.states()
  if len(states) < 2:  # at least one remains intact
    return False
  change(_file_of(rng.choice(states), rng), rng)
  return True


def _in_metrics(place: Place, change: Callable[[pathlib.Path], object]) -> bool:
  path = place.workdir / 'metrics.jsonl'
  if not path.exists() or not path.stat().st_size:
    return False
  change(path)
  return True


def _damage_programs(place: Place, rng: random.Random) -> bool:
  for path in sorted(place.cache.glob('*-cache')):
    _flip(path, rng)
  return True


def _leave_unfinished(place: Place, rng: random.Random) -> bool:
  states = place.states()
  if not states:
    return False
  (place.workdir / 'checkpoints' / str(STEPS - 1)).mkdir(exist_ok=True)  # an empty "state"
  shutil.copytree(
    states[-1], place.workdir / 'checkpoints' / f'{rng.random()}.orbax-checkpoint-tmp'
  )
  return True


AT_REST: dict[str, Callable[[Place, random.Random], bool]] = {
  'flipped state': lambda place, rng: _in_a_state(place, rng, _flip),
  'cut state': lambda place, rng: _in_a_state(place, rng, _cut),
  'deleted file of a state': lambda place, rng: _in_a_state(
    place, rng, lambda path, _: path.unlink()
  ),
  'deleted state': lambda place, rng: (
    len(place.states()) > 1 and shutil.rmtree(rng.choice(place.states())) is None
  ),
  'cut metrics': lambda place, rng: _in_metrics(place, lambda path: _cut(path, rng)),
  'emptied metrics': lambda place, rng: _in_metrics(place, lambda path: path.write_bytes(b'')),
  'NULs in metrics': lambda place, rng: _in_metrics(
    place, lambda path: path.open('ab').write(b'\0' * rng.randrange(1, 5000))
  ),
  'damaged programs': _damage_programs,
  'left unfinished': _leave_unfinished,
}
"""Faults between two starts; each returns False where there is nothing to damage yet."""


def draw(seed: int, *, count: int = 4) -> list[Fault]:
  """Return the faults of one run: of a process first, then mixed, at growing steps."""
  rng = random.Random(seed)
  running, rest = sorted(PASSING_CODES), [*sorted(AT_REST), 'two starts']
  # Every kind comes in its turn; the order in a run is drawn.
  chosen = [running[(seed * 3 + i) % len(running)] for i in range(count - count // 2)]
  chosen += [rest[(seed * 2 + i) % len(rest)] for i in range(count // 2)]
  rng.shuffle(chosen)
  first = next(i for i, kind in enumerate(chosen) if kind in PASSING_CODES)
  chosen.insert(0, chosen.pop(first))
  at = sorted(rng.sample(range(9, STEPS), count))
  return [
    Fault(kind, step if kind in PASSING_CODES else 0, rng.randrange(2**31))
    for kind, step in zip(chosen, at, strict=True)
  ]


def run(place: Place, variant: Variant, faults: list[Fault]) -> list[str]:
  """Run to the end through `faults`; return the kinds that struck."""
  struck = []
  for fault in faults:
    if fault.kind == 'two starts':
      both = [place.start(variant), place.start(variant)]
      codes = sorted(finished(process)[0] for process in both)
      assert codes in ([0, 0], [0, 2]), codes
      struck.append(fault.kind)
    elif fault.kind in AT_REST:
      if AT_REST[fault.kind](place, random.Random(fault.seed)):
        struck.append(fault.kind)
    else:
      code, output = finished(place.start(variant, fault))
      place.heal()
      if place.mark(fault).exists():
        expected = PASSING_CODES[fault.kind] | ({0} if fault.kind in MAY_PASS else set())
        assert code in expected, (fault, code, output)
        struck.append(fault.kind)
      else:
        assert code == 0, (fault, code, output)  # the run ended before
  began = time.monotonic()
  code, output = finished(place.start(variant))
  assert code == 0, (faults, output)
  assert time.monotonic() - began < 200
  return struck


def result(place: Place) -> tuple[dict[str, bytes], dict[int, float]]:
  """Return the bits of the final params, and the loss of each step as the rows have it."""
  weights = flatten(read_params(place.workdir / 'checkpoints' / str(STEPS))[1])
  rows = read_metrics(place.workdir)
  losses = {row['step']: row['loss'] for row in rows if 'event' not in row}
  return {name: np.asarray(array).tobytes() for name, array in weights.items()}, losses
