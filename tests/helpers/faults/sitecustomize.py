"""Faults on demand: Python imports this at its start if a test puts its folder on PYTHONPATH.

FAULT is 'KIND PROCESS STEP FILE', or several of them separated by semicolons: process PROCESS has
the fault after step STEP of its training; once, since FILE is made at that time.

Two more kinds are for `evaluate`: 'refuse' when its data is opened, and 'wait' there forever.

DIGESTS is a file to which process 0 appends, for each step, digests of the global batch.
"""

import errno
import os
import pathlib
import signal
import time


def _install(kind: str, step: int, mark: pathlib.Path) -> None:
  from mixer_jax.checkpoints.store import Store
  from mixer_jax.data.source import Source
  from mixer_jax.runs.hooks import RunHooks

  signals = {'kill': signal.SIGKILL, 'stop': signal.SIGSTOP, 'term': signal.SIGTERM}
  log_step, saved, read = RunHooks.step, RunHooks.save, Source.__getitem__
  checked = Store._check_writable
  reached = 0

  def meets(kinds: tuple[str, ...], now: int) -> bool:
    nonlocal reached
    reached = now
    if kind not in kinds or now != step or mark.exists():
      return False
    mark.write_text('')
    return True

  def step_and_fault(self, now, metrics):
    log_step(self, now, metrics)
    if meets((*signals, 'raise'), now):
      if kind == 'raise':
        raise RuntimeError('a fault that a test asked for')
      os.kill(os.getpid(), signals[kind])

  def save_and_die(self, now, state):
    saved(self, now, state)
    if meets(('save',), now):
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
  setattr(Source, '__getitem__', read_and_fail)  # noqa: B010


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


if 'MIXER_JAX_PROCESS_ID' in os.environ:
  for _fault in filter(None, os.environ.get('FAULT', '').split(';')):
    _kind, _process, _step, _mark = _fault.split(' ', 3)
    if os.environ['MIXER_JAX_PROCESS_ID'] == _process:
      if _kind in ('refuse', 'wait'):
        _at_the_data(_kind)
      else:
        _install(_kind, int(_step), pathlib.Path(_mark))
  if 'DIGESTS' in os.environ:
    _record_batches(os.environ['DIGESTS'])
