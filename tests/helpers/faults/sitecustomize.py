"""Faults on demand: Python imports this at its start if a test puts its folder on PYTHONPATH.

FAULT is 'KIND PROCESS STEP FILE', or several of them separated by semicolons: process PROCESS (0
if it is the only one) has the fault after step STEP of its training, or at the first occasion after
it; once, since FILE is made at that time.

* kill, stop, term, int, usr1, hup: a signal; save: SIGKILL after a save has begun; end: SIGKILL
  after the `end` row; raise: an exception.
* disk: the next save finds no space. full: all writes below FULL_DISK, a small file system, find
  no space; readonly: it is remounted so; limit: no file grows. They last until the process ends;
  where FAULT_SECONDS is set, `full` and `readonly` last that long.
* worker-kill, worker-stop: SIGKILL or SIGSTOP to a worker process of the input.
* read: one error of reading a record. passing: the next three reads of files below READ_FROM
  fail; unreadable: all do.

Two more kinds are for `evaluate`: 'refuse' when its data is opened, and 'wait' there forever.

DIGESTS is a file to which process 0 appends, for each step, digests of the global batch.
"""

import builtins
import errno
import io
import os
import pathlib
import resource
import signal
import subprocess
import sys
import time


def _install(kind: str, step: int, mark: pathlib.Path) -> None:
  from mixer_jax.checkpoints.store import Store
  from mixer_jax.data.source import Source
  from mixer_jax.runlog.progress import Progress
  from mixer_jax.runs.hooks import RunHooks

  signals = {
    'kill': signal.SIGKILL,
    'stop': signal.SIGSTOP,
    'term': signal.SIGTERM,
    'int': signal.SIGINT,
    'usr1': signal.SIGUSR1,
    'hup': signal.SIGHUP,
  }
  worlds = {
    'full': _fill_disk,
    'readonly': _make_readonly,
    'limit': _limit_files,
    'passing': lambda: _fail_reads(3),
    'unreadable': lambda: _fail_reads(10**9),
    'worker-kill': lambda: _strike_worker(signal.SIGKILL),
    'worker-stop': lambda: _strike_worker(signal.SIGSTOP),
  }
  log_step, saved, read = RunHooks.step, RunHooks.save, Source.__getitem__
  checked, logged = Store._check_writable, Progress.event
  reached = 0

  def meets(kinds: tuple[str, ...], now: int) -> bool:
    nonlocal reached
    reached = now
    if kind not in kinds or now < step or mark.exists():
      return False
    mark.write_text('')
    return True

  def step_and_fault(self, now, metrics):
    log_step(self, now, metrics)
    if meets((*signals, *worlds, 'raise'), now):
      if kind in worlds:
        return worlds[kind]()
      if kind == 'raise':
        raise RuntimeError('a fault that a test asked for')
      os.kill(os.getpid(), signals[kind])

  def save_and_die(self, now, state):
    saved(self, now, state)
    if meets(('save',), now):
      os.kill(os.getpid(), signal.SIGKILL)

  def end_and_die(self, event, **values):
    logged(self, event, **values)
    if event == 'end' and kind == 'end' and not mark.exists():
      mark.write_text('')
      os.kill(os.getpid(), signal.SIGKILL)

  def write_and_fail(self):
    if reached and meets(('disk',), reached):
      raise OSError(errno.ENOSPC, 'No space left on device')
    return checked(self)

  def read_and_fail(self, index):
    if reached and meets(('read',), reached):
      raise OSError(errno.EIO, 'a fault that a test asked for')
    return read(self, index)

  setattr(RunHooks, 'step', step_and_fault)  # noqa: B010
  setattr(Store, '_check_writable', write_and_fail)  # noqa: B010
  setattr(RunHooks, 'save', save_and_die)  # noqa: B010
  setattr(Progress, 'event', end_and_die)  # noqa: B010
  setattr(Source, '__getitem__', read_and_fail)  # noqa: B010


def _fill_disk() -> None:
  filler = pathlib.Path(os.environ['FULL_DISK']) / 'filler'
  descriptor = os.open(filler, os.O_WRONLY | os.O_CREAT)
  try:
    for size in (2**16, 1):
      while True:
        try:
          os.write(descriptor, b'0' * size)
        except OSError:
          break
  finally:
    os.close(descriptor)
  _heal_later()


def _make_readonly() -> None:
  # Refused while a file is open for writing, as that of TensorBoard is.
  disk = os.environ['FULL_DISK']
  subprocess.run(['mount', '-o', 'remount,ro', disk], check=False, stderr=subprocess.DEVNULL)
  _heal_later()


def _heal_later() -> None:
  # Both faults at once: from a read-only disk, what fills a full one could not be removed.
  heal = 'mount -o remount,rw "$0" 2>&-; rm -f "$0/filler"'
  if seconds := os.environ.get('FAULT_SECONDS'):
    # Its output is closed, since the reader of the run's output waits for all that hold it.
    silent = dict.fromkeys(('stdout', 'stderr'), subprocess.DEVNULL)
    subprocess.Popen(['sh', '-c', f'sleep {seconds}; {heal}', os.environ['FULL_DISK']], **silent)


def _limit_files() -> None:
  resource.setrlimit(resource.RLIMIT_FSIZE, (64, 64))


def _strike_worker(number: int) -> None:
  for path in pathlib.Path('/proc/self/task').glob('*/children'):
    for pid in path.read_text().split():
      if b'mixer_jax.data.worker' in pathlib.Path('/proc', pid, 'cmdline').read_bytes():
        return os.kill(int(pid), number)
  raise AssertionError('the run has no workers')


def _fail_reads(times: int) -> None:
  folder, left = os.environ['READ_FROM'], times
  opened, descriptor_opened, read_at = builtins.open, os.open, os.pread

  def fail(path) -> None:
    nonlocal left
    if left > 0 and isinstance(path, str | os.PathLike) and os.fspath(path).startswith(folder):
      left -= 1
      raise OSError(errno.EIO, os.strerror(errno.EIO), os.fspath(path))

  def open_and_fail(file, mode='r', *args, **kwargs):
    if not set(mode) & set('wax+'):
      fail(file)
    return opened(file, mode, *args, **kwargs)

  def descriptor_and_fail(path, flags, *args, **kwargs):
    if not flags & (os.O_WRONLY | os.O_RDWR | os.O_DIRECTORY):
      fail(path)
    return descriptor_opened(path, flags, *args, **kwargs)

  def read_and_fail(descriptor, *args):
    fail(os.readlink(f'/proc/self/fd/{descriptor}'))
    return read_at(descriptor, *args)

  setattr(builtins, 'open', open_and_fail)  # noqa: B010
  setattr(io, 'open', open_and_fail)  # noqa: B010
  setattr(os, 'open', descriptor_and_fail)  # noqa: B010
  setattr(os, 'pread', read_and_fail)  # noqa: B010


def _at_the_data(kind: str) -> None:
  from mixer_jax.errors import UserError
  from mixer_jax.runs import loaded_model

  def open_and_fault(*_):
    if kind == 'refuse':
      raise UserError('a refusal that a test asked for')
    print('waits as a test asked', flush=True)
    while True:
      time.sleep(1)

  setattr(loaded_model, 'open_evaluation', open_and_fault)  # noqa: B010


def _record_batches(file: str) -> None:
  import jax

  from mixer_jax.checkpoints.digest import digest
  from mixer_jax.training import loop

  train = loop.train

  def recorded(batches, step):
    for batch in batches:
      step += 1
      sums, _ = digest(dict(batch))  # computed by all processes, on the global arrays
      if jax.process_index() == 0:
        with open(file, 'a') as lines:
          lines.write(f'{step} {sums["image"]} {sums["label"]}\n')
      yield batch

  def train_and_record(state, train_step, batches, hooks, *, first_step, **how):
    batches = recorded(batches, first_step)
    return train(state, train_step, batches, hooks, first_step=first_step, **how)

  setattr(loop, 'train', train_and_record)  # noqa: B010


if 'mixer_jax' in sys.orig_argv and ('FAULT' in os.environ or 'DIGESTS' in os.environ):
  for _fault in filter(None, os.environ.get('FAULT', '').split(';')):
    _kind, _process, _step, _mark = _fault.split(' ', 3)
    if os.environ.get('MIXER_JAX_PROCESS_ID', '0') == _process:
      if _kind in ('refuse', 'wait'):
        _at_the_data(_kind)
      else:
        _install(_kind, int(_step), pathlib.Path(_mark))
  if 'DIGESTS' in os.environ:
    _record_batches(os.environ['DIGESTS'])
