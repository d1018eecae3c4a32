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
from collections.abc import Iterator

import cv2
import numpy as np

from mixer_jax.checkpoints import state_files
from mixer_jax.checkpoints.run_states import best_state, read_params
from mixer_jax.data.prepare import own_builder
from mixer_jax.models.parameters import flatten
from mixer_jax.runlog.metrics import read_metrics
from tests.helpers import damage, train_runs

STEPS = 24
FLAGS = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint_every=4',
  '--config.eval_every=6',
  '--config.log_every=1',
  '--config.keep_checkpoints=3',
  '--config.model.dropout=0.1',
)
POD_FLAGS = (
  '--config.processes.start_seconds=60',
  '--config.processes.heartbeat_seconds=10',
  '--config.processes.shutdown_seconds=20',
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
  'two starts': {-signal.SIGKILL},
  'worker-kill': {74},
  'worker-stop': {74},
}
"""Faults of a running process (see `faults/sitecustomize.py`) and the exit codes after them."""

MAY_PASS = {
  *('full', 'readonly', 'limit', 'term', 'usr1', 'hup', 'int', 'disk', 'unreadable'),
  'worker-stop',
}
"""Faults that come too late if nothing is left to write, read or stop; the run then ends well."""

OF_WORKERS = ('worker-kill', 'worker-stop')
"""Faults of a worker process of the input."""

RUNNING_ON = {'passing': 1, 'end': 2}
"""Faults after which no step is left to others; the later comes last."""

POD_KINDS = (
  *('kill', 'save', 'usr1', 'term', 'stop', 'full', 'limit', 'readonly', 'passing', 'disk'),
  *OF_WORKERS,
)
"""Faults of one process of a pod, whose supervisor starts all again."""


@dataclasses.dataclass(frozen=True)
class Variant:
  """A kind of run. `flags` are added to those of all."""

  name: str
  flags: tuple[str, ...]
  reads_folder: bool = False
  keeps_best: bool = False
  has_workers: bool = False
  processes: int = 1


WORKERS = ('--config.data.workers=2', '--config.data.threads=1', '--config.data.prefetch=16')

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
    keeps_best=True,
  ),
  Variant(
    'folder',
    (
      *WORKERS,
      '--config.data.undecodable=skip',
      '--config.data.train_split=train[:80%]',
      '--config.data.eval_split=train[80%:]',
      '--config.model.num_classes=2',
    ),
    reads_folder=True,
    has_workers=True,
  ),
  Variant('tensorboard', ('--config.tensorboard=true', '--config.accumulate=2')),
)
POD = Variant('pod', (*POD_FLAGS, *WORKERS), has_workers=True, processes=2)


@dataclasses.dataclass(frozen=True)
class Fault:
  """A fault drawn from the seed: of a running process after `step`, or at rest (`step` 0)."""

  kind: str
  step: int
  seed: int
  process: int = 0


class Place:
  """Folders of one run, on a file system of its own where it can be mounted.

  Args:
    root: folder of all.
    data: what `make_data` made; the run reads a copy.
    programs: compiled programs to begin with.
  """

  def __init__(self, root: pathlib.Path, data: pathlib.Path, programs: pathlib.Path | None):
    self.root, self.data, self.cache, self.disk = (
      root / name for name in ('.', 'data', 'cache', 'disk')
    )
    shutil.copytree(data, self.data)
    if programs:
      shutil.copytree(programs, self.cache / 'compiled')
    self.disk.mkdir(parents=True)
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=48m', 'tmpfs', str(self.disk)]
    self.is_mounted = subprocess.run(mount, check=False, capture_output=True).returncode == 0
    self.workdir = self.disk / 'run'
    self.damaged: set[pathlib.Path] = set()

  def heal(self) -> None:
    """Make the disk writable, and give its space back."""
    if self.is_mounted:
      subprocess.run(['mount', '-o', 'remount,rw', str(self.disk)], check=True)
    (self.disk / 'filler').unlink(missing_ok=True)

  def start(self, variant: Variant, *faults: Fault) -> subprocess.Popen:
    """Start the run, with faults if there are any; the mark of one is made when it strikes."""
    self.damaged.clear()
    environment = {
      **os.environ,
      'PYTHONPATH': os.pathsep.join((str(FAULTS_FOLDER), str(train_runs.ROOT))),
      'XLA_FLAGS': '--xla_force_host_platform_device_count=2',
      'JAX_COMPILATION_CACHE_DIR': str(self.cache / 'compiled'),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'MIXER_JAX_CACHE': str(self.cache),
      'MIXER_JAX_RETRY_SECONDS': '2',
      'FULL_DISK': str(self.disk),
      'READ_FROM': str(self.data),
      'FAULT': ';'.join(
        f'{fault.kind} {fault.process} {fault.step} {self.mark(fault)}' for fault in faults
      ),
    }
    program = [sys.executable, '-m', 'mixer_jax']
    if variant.processes > 1:
      program = [str(train_runs.ROOT / 'launch' / 'local_pod.sh'), str(variant.processes), '2']
      environment |= {
        'PYTHON': sys.executable,
        'XLA_FLAGS': '',
        'FAULT_SECONDS': '3',
        'MIXER_JAX_RESTARTS': '20',
        'MIXER_JAX_BACKOFF': '0',
      }
    images = (f'--config.data.name=folder:{self.data / "images"}',) if variant.reads_folder else ()
    flags = (*FLAGS, *variant.flags, *images)
    return subprocess.Popen(
      [*program, *train_runs.flags(self.workdir, self.data, *flags)],
      cwd=train_runs.ROOT,
      env=environment,
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )

  def workers(self) -> list[int]:
    """Return the worker processes of the input that run here."""
    found = []
    for path in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):  # it has ended
        is_worker = b'mixer_jax.data.worker' in (path / 'cmdline').read_bytes()
        if is_worker and os.fsencode(f'READ_FROM={self.data}\0') in (path / 'environ').read_bytes():
          found.append(int(path.name))
    return found

  def mark(self, fault: Fault) -> pathlib.Path:
    """Return the file that says that a fault struck."""
    return self.root / f'{fault.kind}-{fault.step}'

  def states(self) -> list[pathlib.Path]:
    """Return the folders of the run's finished saves that nobody damaged, oldest first."""
    found = (path.parent for path in self.workdir.glob(f'checkpoints/*/{state_files.METADATA}'))
    intact = {path for path in found if path.name.isdigit()} - self.damaged
    return sorted(intact, key=lambda path: int(path.name))


@contextlib.contextmanager
def place(
  root: pathlib.Path, data: pathlib.Path, programs: pathlib.Path | None = None
) -> Iterator[Place]:
  """Return a `Place`; its file system is gone afterwards."""
  made = Place(root, data, programs)
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


def make_data(folder: pathlib.Path) -> pathlib.Path:
  """Write `digits` as TFRecords, and two classes of 60 small images, one of them damaged."""
  own_builder('digits', data_dir=str(folder), file_format='tfrecord').download_and_prepare()
  rng = np.random.default_rng(0)
  for name, level in (('dark', 60), ('light', 180)):
    (folder / 'images' / name).mkdir(parents=True)
    for i in range(60):
      image = np.clip(rng.normal(level, 40, (20, 24, 3)), 0, 255).astype(np.uint8)
      assert cv2.imwrite(str(folder / 'images' / name / f'{i:02}.png'), image)
  (folder / 'images' / 'dark' / '07.png').write_bytes(b'no image')
  return folder


def _cut_data(place: Place, variant: Variant, rng: random.Random) -> None:
  """Cut a file of the data: a start names it. Then it is restored."""
  pattern = 'images/*/*.png' if variant.reads_folder else 'digits/*/*train*tfrecord*'
  path = rng.choice(sorted(place.data.glob(pattern)))
  content = path.read_bytes()
  damage.cut(path, rng)
  code, output = finished(place.start(variant))
  assert code == 2, output
  assert path.name in output.splitlines()[-1], output
  path.write_bytes(content)


def draw(seed: int, *, count: int = 4) -> list[Fault]:
  """Return the faults of one run of `VARIANTS[seed % 4]`: of a process first, then mixed."""
  rng = random.Random(seed)
  turn, place = divmod(seed, len(VARIANTS))
  absent = set() if VARIANTS[place].keeps_best else {'flipped best state'}
  absent |= {'cut index'} if VARIANTS[place].reads_folder else set()
  of_workers = set() if VARIANTS[place].has_workers else {*OF_WORKERS}
  running, rest = (
    sorted({*PASSING_CODES} - of_workers),
    sorted({*damage.AT_REST, 'cut data'} - absent),
  )
  # Every kind comes in its turn; the order in a run is drawn.
  half = count // 2
  of_processes = [running[(seed * 3 + i) % len(running)] for i in range(count - half)]
  of_processes.sort(key=lambda kind: RUNNING_ON.get(kind, 0))
  at_rest = [rest[(turn * 2 + place * 3 + i) % len(rest)] for i in range(half)]
  turns = [of_processes] * (count - half - 1) + [at_rest] * half
  chosen = [kinds.pop(0) for kinds in (of_processes, *rng.sample(turns, count - 1))]
  at = sorted(rng.sample(range(9, STEPS), count))
  return [
    Fault(kind, step if kind in PASSING_CODES else 0, rng.randrange(2**31))
    for kind, step in zip(chosen, at, strict=True)
  ]


def draw_of_pod(seed: int, *, count: int = 5) -> list[Fault]:
  """Return the faults of one run of a pod, at growing steps of either process."""
  rng = random.Random(seed)
  kinds = [POD_KINDS[(seed * count + i) % len(POD_KINDS)] for i in range(count)]
  rng.shuffle(kinds)
  at = sorted(rng.sample(range(3, STEPS - 4), count))
  return [
    Fault(kind, step, 0, rng.randrange(POD.processes)) for kind, step in zip(kinds, at, strict=True)
  ]


def run_pod(place: Place, faults: list[Fault]) -> list[str]:
  """Run a pod through `faults`, each in a start of its own; return the kinds that struck."""
  code, output = finished(place.start(POD, *faults), 400)
  assert code == 0, output
  _check_no_orphans(place)
  return [fault.kind for fault in faults if place.mark(fault).exists()]


def run(place: Place, variant: Variant, faults: list[Fault]) -> list[str]:
  """Run to the end through `faults`; return the kinds that struck."""
  struck = []
  for fault in faults:
    if fault.kind == 'two starts':  # the one that trains is killed
      kill = dataclasses.replace(fault, kind='kill')
      both = [place.start(variant, kill), place.start(variant, kill)]
      codes = sorted(finished(process)[0] for process in both)
      expected = ([-signal.SIGKILL, 0], [-signal.SIGKILL, 2])
      assert codes in (expected if place.mark(kill).exists() else ([0, 0], [0, 2])), codes
      struck.append(fault.kind)
    elif fault.kind == 'cut data':
      _cut_data(place, variant, random.Random(fault.seed))
      struck.append(fault.kind)
    elif fault.kind in damage.AT_REST:
      # There may be no state to spare.
      for kind in (fault.kind, 'left unfinished'):
        if damage.AT_REST[kind](place, random.Random(fault.seed)):
          struck.append(kind)
          break
    else:
      code, output = finished(place.start(variant, fault))
      _check_no_orphans(place)
      place.heal()
      if place.mark(fault).exists():
        expected = PASSING_CODES[fault.kind] | ({0} if fault.kind in MAY_PASS else set())
        assert code in expected, (fault, code, output)
        struck.append(fault.kind)
      else:
        assert code == 0, (fault, code, output)  # the run ended before
  code, output = finished(place.start(variant))
  assert code == 0, (faults, output)
  return struck


def _check_no_orphans(place: Place) -> None:
  """Check that workers end with their process, in the time that a busy machine takes for that."""
  for _ in range(50):
    if not place.workers():
      return
    time.sleep(0.1)
  raise AssertionError(f'workers {place.workers()} have no parent')


def result(place: Place, variant: Variant) -> tuple[dict[str, bytes], dict[int, float]]:
  """Return the bits of the final params and the best ones, and the loss of each step's row."""
  states = {'': place.workdir / 'checkpoints' / str(STEPS)}
  if variant.keeps_best:
    states['best/'] = pathlib.Path(best_state(place.workdir))
  rows = read_metrics(place.workdir)
  losses = {row['step']: row['loss'] for row in rows if 'event' not in row}
  return {
    f'{prefix}{name}': np.asarray(array).tobytes()
    for prefix, state in states.items()
    for name, array in flatten(read_params(state)[1]).items()
  }, losses
