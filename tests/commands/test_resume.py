"""A run that is killed resumes and ends with the same bits as a run that was not."""

import os
import pathlib
import signal
import subprocess
import time

import jax
import numpy as np
import pytest

from mixer_jax.checkpoints.run_states import has_states, read_params
from mixer_jax.runlog.metrics import read_metrics
from tests.helpers import train_runs

STEPS = 40
FLAGS = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint_every=8',
  '--config.eval_every=20',
  '--config.log_every=1',
  '--config.model.dropout=0.1',
  '--config.model.stochastic_depth=0.1',
  '--config.model.num_blocks=2',
  '--config.keep_checkpoints=2',
  '--config.data.crop=square',
  '--config.data.crop_resize=20',
  '--config.optimizer.schedule=steps',
  '--config.optimizer.decay_at=0.3,0.9',
  '--config.optimizer.momentum_dtype=bfloat16',
)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


def start(workdir, digits_dir, cache) -> subprocess.Popen:
  return train_runs.start(workdir, digits_dir, *FLAGS, cache=cache)


def finish(workdir, digits_dir, cache) -> str:
  process = start(workdir, digits_dir, cache)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  return output


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, digits_dir, cache):
  """Return the final params of a run without interruption."""
  workdir = tmp_path_factory.mktemp('undisturbed')
  finish(workdir, digits_dir, cache)
  return final(workdir)


def final(workdir):
  return read_params(pathlib.Path(workdir) / 'checkpoints' / str(STEPS))[1]


def assert_same_bits(a, b):
  view = lambda leaf: np.asarray(leaf).view(np.uint32)
  jax.tree.map(lambda x, y: np.testing.assert_array_equal(view(x), view(y)), a, b)


def kill_when(process: subprocess.Popen, ready) -> None:
  """Send SIGKILL as soon as `ready()`; fail if the run ends before."""
  while not ready():
    if process.poll() is not None:
      pytest.fail(f'the run ended by itself: {process.communicate()[0]}')
    time.sleep(0.0005)
  os.kill(process.pid, signal.SIGKILL)
  process.communicate()


def last_step(workdir) -> int:
  return max((row['step'] for row in read_metrics(workdir) if 'event' not in row), default=0)


def starts(workdir) -> list[dict]:
  return [row for row in read_metrics(workdir) if row.get('event') == 'start']


@pytest.mark.long
def test_killed_at_a_random_step(tmp_path, digits_dir, cache, undisturbed, rng):
  step = rng.randrange(17, STEPS - 2)
  print('killed at step', step)
  kill_when(start(tmp_path, digits_dir, cache), lambda: last_step(tmp_path) >= step)
  output = finish(tmp_path, digits_dir, cache)
  assert_same_bits(final(tmp_path), undisturbed)
  first, second = starts(tmp_path)
  assert first['restored'] is None
  assert second['step'] in (
    step // 8 * 8,
    step // 8 * 8 - 8,
  )  # the last save may not have been complete
  assert second['restored'].endswith(f'checkpoints/{second["step"]}')
  assert f'resuming after step {second["step"]}' in output
  assert first['pid'] != second['pid']


def saving(workdir) -> list[pathlib.Path]:
  return list((pathlib.Path(workdir) / 'checkpoints').glob('*.orbax-checkpoint-tmp*'))


def test_killed_in_the_middle_of_a_save(tmp_path, digits_dir, cache, undisturbed):
  for _ in range(5):
    kill_when(start(tmp_path, digits_dir, cache), lambda: saving(tmp_path))
    if saving(tmp_path):  # the kill came before the end of the save
      break
  assert saving(tmp_path)
  finish(tmp_path, digits_dir, cache)
  assert not saving(tmp_path)
  assert_same_bits(final(tmp_path), undisturbed)


@pytest.mark.long
def test_a_damaged_newest_state_is_skipped(tmp_path, digits_dir, cache, undisturbed):
  kill_when(start(tmp_path, digits_dir, cache), lambda: last_step(tmp_path) >= 30)
  steps = sorted(int(path.name) for path in (tmp_path / 'checkpoints').glob('[0-9]*')
                 if path.name.isdigit())  # fmt: skip
  newest = tmp_path / 'checkpoints' / str(steps[-1])
  for path in newest.rglob('d/*'):
    path.write_bytes(path.read_bytes()[:-40])
  output = finish(tmp_path, digits_dir, cache)
  assert f'{newest} is damaged' in output
  assert starts(tmp_path)[-1]['step'] == steps[-2]
  assert_same_bits(final(tmp_path), undisturbed)


def test_an_interrupt_is_one_line_and_loses_nothing(tmp_path, digits_dir, cache, undisturbed):
  process = start(tmp_path, digits_dir, cache)
  while last_step(tmp_path) < 10:
    assert process.poll() is None
    time.sleep(0.001)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 130
  assert 'Traceback' not in output
  (step,) = (row['step'] for row in read_metrics(tmp_path) if row.get('event') == 'preempted')
  assert output.splitlines()[-1] == (
    f'mixer-jax: interrupted at step {step}: its state is saved; '
    'run the same command again to resume'
  )
  finish(tmp_path, digits_dir, cache)
  assert_same_bits(final(tmp_path), undisturbed)


@pytest.mark.skipif(not pathlib.Path('/proc/self/maps').exists(), reason='reads /proc')
@pytest.mark.parametrize('seconds', [0, 0.5, 1.5])
def test_an_interrupt_while_it_starts_is_one_line(tmp_path, digits_dir, cache, seconds):
  process = start(tmp_path, digits_dir, cache)
  maps = pathlib.Path(f'/proc/{process.pid}/maps')
  while 'jaxlib' not in maps.read_text():  # its imports have begun
    time.sleep(0.005)
  time.sleep(seconds)
  process.send_signal(signal.SIGINT)
  output, _ = process.communicate(timeout=60)
  assert process.returncode == 130
  assert output.splitlines()[-1].startswith('mixer-jax: interrupted')
  assert ('its state is saved' in output) == has_states(tmp_path)
  assert 'Traceback' not in output


@pytest.mark.long
@pytest.mark.parametrize('trial', range(6))
def test_killed_again_and_again(tmp_path, digits_dir, cache, undisturbed, trial, rng):
  while True:
    process = start(tmp_path, digits_dir, cache)
    target = last_step(tmp_path) + rng.randrange(1, 25)
    began = len(starts(tmp_path))
    while process.poll() is None:
      done = [row for row in read_metrics(tmp_path) if 'event' not in row]
      if len(starts(tmp_path)) > began and done and done[-1]['step'] >= target:
        os.kill(process.pid, signal.SIGKILL)
        break
      time.sleep(0.002)
    output, _ = process.communicate()
    if process.returncode == 0:
      break
    assert process.returncode == -signal.SIGKILL, output
  assert_same_bits(final(tmp_path), undisturbed)
