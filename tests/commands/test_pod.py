"""A pod of real processes on this machine: faults, and what remains after them."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.checkpoints import run_states
from mixer_jax.data.catalog import open_source
from mixer_jax.models.parameters import flatten
from mixer_jax.runlog.metrics import read_metrics
from tests.helpers import train_runs

POD = train_runs.ROOT / 'launch' / 'local_pod.sh'
# This tree comes before an installed one, which Python would import where it imports the faults.
FAULTS = os.pathsep.join(
  map(str, (train_runs.ROOT / 'tests' / 'helpers' / 'faults', train_runs.ROOT))
)
LIMITS = (
  '--config.processes.start_seconds=60',
  '--config.processes.heartbeat_seconds=10',
  '--config.processes.shutdown_seconds=20',
)
STEPS = 12


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  """Programs are compiled once for all starts."""
  return tmp_path_factory.mktemp('compiled')


def start(
  workdir, data_dir, cache, *more,
  processes=2, fault='', restarts=3, start_new_session=False, config='configs/digits.py',
  **environment,
):  # fmt: skip
  """A running pod of two devices a process."""
  flags = (*LIMITS, f'--config.total_steps={STEPS}', *more)
  return subprocess.Popen(
    [
      str(POD),
      str(processes),
      '2',
      *train_runs.flags(workdir, data_dir, *flags, config=config),
    ],
    cwd=train_runs.ROOT,
    env={
      **os.environ,
      'PYTHON': sys.executable,
      'PYTHONPATH': FAULTS,
      'XLA_FLAGS': '',
      'JAX_COMPILATION_CACHE_DIR': str(cache),
      'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
      'MIXER_JAX_RESTARTS': str(restarts),
      **({'FAULT': fault} if fault else {}),
      **environment,
    },
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    start_new_session=start_new_session,
    text=True,
  )


def finished(pod: subprocess.Popen, seconds: float = 400) -> tuple[int, str]:
  """(exit code, what was said) of a pod that must come to its end."""
  try:
    said, _ = pod.communicate(timeout=seconds)
  except subprocess.TimeoutExpired:
    pod.terminate()
    said, _ = pod.communicate()
    raise AssertionError(f'a pod hangs: {said}') from None
  return pod.returncode, said


def bits(workdir) -> dict[str, bytes]:
  return {name: array.tobytes() for name, array in flatten(mixer_jax.load(workdir)[1]).items()}


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, digits_dir, cache):
  """The workdir of a run of two processes that nothing happened to."""
  workdir = tmp_path_factory.mktemp('pod') / 'run'
  code, said = finished(start(workdir, digits_dir, cache, DIGESTS=f'{workdir}.batches'))
  assert code == 0, said
  assert 'process 1 of 2' in said
  assert 'process 0 of 2' in said
  assert said.count('step 12/12') == 1  # only process 0 logs progress
  return workdir


def batches(workdir) -> dict[int, str]:
  """Return step -> digests of its images and labels, of the starts that recorded them."""
  lines = pathlib.Path(f'{workdir}.batches').read_text().splitlines()
  seen: dict[int, str] = {}
  for line in lines:
    step, _, digests = line.partition(' ')
    assert seen.setdefault(int(step), digests) == digests  # also when a step is done again
  return seen


def events(workdir) -> list[dict]:
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return [row for row in rows if 'event' in row]


ALL = ('kill 1 1', 'stop 1 1', 'raise 0 2', 'disk 0 3', 'read 1 4', 'save 1 6', 'term 0 7')


@pytest.mark.parametrize('chain', [ALL[:1] + ALL[-1:], pytest.param(ALL, marks=pytest.mark.long)])
def test_after_every_kind_of_fault_the_run_ends_in_the_same_bits(
  undisturbed, tmp_path, digits_dir, cache, chain
):
  marks = [tmp_path / fault.replace(' ', '-') for fault in chain]
  faults = ';'.join(f'{fault} {mark}' for fault, mark in zip(chain, marks, strict=True))
  more = {'restarts': len(chain), 'MIXER_JAX_BACKOFF': '0', 'DIGESTS': f'{tmp_path}/run.batches'}
  code, said = finished(start(tmp_path / 'run', digits_dir, cache, fault=faults, **more))
  assert code == 0, said
  assert [mark.name for mark in marks if not mark.exists()] == []  # each did happen
  # All agree on a step to exit at, which may be after the last.
  assert said.count('restarting all') in (len(chain) - 1, len(chain)), said
  assert bits(tmp_path / 'run') == bits(undisturbed)
  assert batches(tmp_path / 'run') == batches(undisturbed)


LONG = (
  'kill 0 4',
  'kill 1 5',
  'stop 1 5',
  'stop 0 4',
  'raise 1 5',
  'raise 0 2',
  'read 1 4',
  'disk 1 3',
  'disk 0 3',
  'term 1 2',
  'save 1 3',
  'save 0 3',
)


@pytest.mark.long
@pytest.mark.parametrize('fault', LONG)
def test_after_a_fault_the_run_ends_in_the_same_bits(
  undisturbed, tmp_path, digits_dir, cache, fault
):
  code, said = finished(
    start(tmp_path / 'run', digits_dir, cache, fault=f'{fault} {tmp_path / "mark"}')
  )
  assert code == 0, said
  assert (tmp_path / 'mark').exists()  # the fault did happen
  starts = [row for row in events(tmp_path / 'run') if row['event'] == 'start']
  assert len(starts) == 4, said  # two processes, twice
  assert bits(tmp_path / 'run') == bits(undisturbed)


@pytest.mark.long
@pytest.mark.parametrize(
  ('family', 'axis', 'fault'), [('vit', 'model', 'kill 1 5'), ('resnet', 'fsdp', 'kill 0 4')]
)
def test_a_model_across_processes_survives_a_fault(
  tmp_path, digits_dir, cache, family, axis, fault
):
  """All four heads are on devices of their own, or a quarter of all channels."""
  config, _ = train_runs.FAMILIES[family]
  small = train_runs.family_flags(family)
  mesh = (*small, '--config.mesh.data=1', f'--config.mesh.{axis}=4')
  place = lambda name: (tmp_path / name, digits_dir, cache)
  faults = f'{fault} {tmp_path / "mark"}'
  for pod in (
    lambda: start(*place('undisturbed'), *mesh, config=config),
    lambda: start(*place('disturbed'), *mesh, config=config, fault=faults),
    lambda: start(*place('alone'), *small, config=config, processes=1),
  ):
    code, said = finished(pod())
    assert code == 0, said
  assert (tmp_path / 'mark').exists()
  assert bits(tmp_path / 'disturbed') == bits(tmp_path / 'undisturbed')
  image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
  pod, alone = (
    mixer_jax.apply(*mixer_jax.load(tmp_path / name), image) for name in ('undisturbed', 'alone')
  )
  np.testing.assert_allclose(pod, alone, atol=1e-4)


def test_processes_that_were_started_differently_leave_naming_the_field(tmp_path, digits_dir):
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  started = []
  for index in range(2):
    own = train_runs.flags(tmp_path / 'run', digits_dir, *LIMITS, f'--config.seed={index}')
    where = {
      'MIXER_JAX_COORDINATOR': address,
      'MIXER_JAX_NUM_PROCESSES': '2',
      'MIXER_JAX_PROCESS_ID': str(index),
    }
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', 'mixer_jax', *own],
        env={**os.environ, **where},
        cwd=train_runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
      )
    )
  for index, process in enumerate(started):
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 2, said
    assert f'started differently: config.seed is {index} in this one, and not in all' in said
  assert not (tmp_path / 'run').exists()


def test_a_preempted_run_saves_leaves_with_75_and_goes_on(tmp_path, digits_dir):
  workdir = tmp_path / 'run'
  long = ('--config.total_steps=4000', '--config.checkpoint_every=0', '--config.eval_every=0')
  run = train_runs.start(workdir, digits_dir, *long)
  deadline = time.monotonic() + 120
  while (
    not (workdir / 'metrics.jsonl').exists()
    or 'loss' not in (workdir / 'metrics.jsonl').read_text()
  ):
    assert time.monotonic() < deadline
    time.sleep(0.1)
  run.send_signal(signal.SIGTERM)
  said, _ = run.communicate(timeout=120)
  assert run.returncode == 75, said
  (step,) = [int(entry.name) for entry in (workdir / 'checkpoints').iterdir()]
  assert f' at step {step}: its state is saved; run the same command again to resume' in said
  assert [row['step'] for row in events(workdir) if row['event'] == 'preempted'] == [step]
  assert run_states.read_params(workdir)[0]['step'] == step
  assert 0 < step < 4000


@pytest.mark.long
def test_ctrl_c_at_a_terminal_saves_the_state_of_a_pod(tmp_path, digits_dir, cache):
  """A terminal sends it to all processes of its group, and the supervisor forwards it again."""
  more = ('--config.total_steps=4000', '--config.checkpoint_every=0', '--config.eval_every=0')
  pod = start(tmp_path / 'run', digits_dir, cache, *more, start_new_session=True)
  while 'loss' not in str(read_metrics(tmp_path / 'run')):
    assert pod.poll() is None
    time.sleep(0.1)
  os.killpg(pod.pid, signal.SIGINT)
  code, said = finished(pod)
  assert code == 130, said
  (step,) = [int(entry.name) for entry in (tmp_path / 'run' / 'checkpoints').iterdir()]
  assert said.count(f'mixer-jax: interrupted at step {step}: its state is saved') == 2


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_processes(undisturbed, tmp_path, digits_dir, cache):
  for first, then in ((2, 1), (1, 2)):
    workdir = tmp_path / f'{first}to{then}'
    fault, digests = f'term 0 2 {tmp_path / str(first)}', f'{workdir}.batches'
    code, said = finished(
      start(workdir, digits_dir, cache, fault=fault, restarts=0, processes=first, DIGESTS=digests)
    )
    assert code == 75, said
    assert max(batches(workdir)) < STEPS
    code, said = finished(start(workdir, digits_dir, cache, processes=then, DIGESTS=digests))
    assert code == 0, said
    assert batches(workdir) == batches(undisturbed)
    image = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), np.uint8)
    found, wanted = (mixer_jax.apply(*mixer_jax.load(run), image) for run in (workdir, undisturbed))
    np.testing.assert_allclose(found, wanted, atol=1e-4)


def two(*argvs, seconds=120, **environment) -> list[tuple[int, str, str]]:
  """(exit code, stdout, stderr) of processes of one pod, each with flags of its own."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  started = []
  for index, argv in enumerate(argvs):
    if argv is None:  # one that does not come
      continue
    where = {
      'MIXER_JAX_COORDINATOR': address,
      'MIXER_JAX_NUM_PROCESSES': str(len(argvs)),
      'MIXER_JAX_PROCESS_ID': str(index),
    }
    started.append(
      subprocess.Popen(
        [sys.executable, '-m', 'mixer_jax', *argv],
        env={**os.environ, 'XLA_FLAGS': '', **where, **environment},
        cwd=train_runs.ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
      )
    )
  try:
    said = [process.communicate(timeout=seconds) for process in started]
  finally:
    for process in started:
      process.kill()
  codes = [process.returncode for process in started]
  return [(code, *text) for code, text in zip(codes, said, strict=True)]


@pytest.fixture(scope='module')
def pictures(tmp_path_factory, digits_dir):
  folder = tmp_path_factory.mktemp('pictures')
  source = open_source('digits', 'test', str(digits_dir))
  for index in range(5):
    (folder / f'{index}.png').write_bytes(source[index]['image'])
  return folder


def test_a_pod_evaluates_and_predicts_as_one_process_does(undisturbed, pictures, capsys):
  for argv in (
    ['evaluate', f'--checkpoint={undisturbed}', '--json=-'],
    ['predict', f'--checkpoint={undisturbed}', '--json', '--top=2', str(pictures)],
  ):
    assert main(argv) == 0
    alone = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    first, second = two(argv, argv)
    assert (first[0], second[0]) == (0, 0), first[2] + second[2]
    together = [json.loads(line) for line in first[1].splitlines()]  # nothing else is on stdout
    assert second[1] == ''
    assert len(together) == len(alone) > 0
    for row, wanted in zip(together, alone, strict=True):
      assert row.get('image') == wanted.get('image')
      for key in {'top1', 'top5', 'loss', 'examples'} & wanted.keys():
        assert row[key] == pytest.approx(wanted[key], rel=1e-5)
      for ours, theirs in zip(row.get('top', []), wanted.get('top', []), strict=True):
        assert ours['class'] == theirs['class']
        assert ours['probability'] == pytest.approx(theirs['probability'], rel=1e-4)


def test_where_one_process_refuses_the_others_do_not_wait(undisturbed, pictures, tmp_path):
  argv = ['predict', f'--checkpoint={undisturbed}']
  # Limits well below that of a missing heartbeat, 100 s.
  first, second = two([*argv, str(pictures)], [*argv, str(tmp_path)], seconds=60)
  assert (first[0], second[0]) == (2, 2)
  assert 'started differently: --images' in first[2]
  gone = ['evaluate', f'--checkpoint={undisturbed}']
  fault = {'FAULT': f'refuse 1 0 {tmp_path / "mark"}', 'PYTHONPATH': FAULTS}
  codes = two(gone, gone, seconds=60, **fault)
  assert [code for code, _, _ in codes] == [2, 2]
  assert 'process 1 rejected its input: see its own message' in codes[0][2]
  assert 'a refusal that a test asked for' in codes[1][2]


@pytest.mark.long
def test_a_process_that_finds_no_other_leaves_within_the_limit(tmp_path, digits_dir):
  argv = train_runs.flags(tmp_path / 'run', digits_dir, '--config.processes.start_seconds=3')
  for pod, absent in (((argv, None), 'process 1 of 2'), ((None, argv), 'process 0 of 2')):
    ((code, _, error),) = two(*pod, seconds=60)
    assert code == 69, error
    assert error.count('\n') == 1
    assert f'mixer-jax: {absent} did not come within 3 s' in error
  assert not (tmp_path / 'run').exists()


@pytest.mark.long
def test_a_proxy_of_the_environment_is_not_asked_for_the_pod(undisturbed):
  argv = ['evaluate', f'--checkpoint={undisturbed}', '--json=-']
  proxies = dict.fromkeys(('http_proxy', 'https_proxy', 'HTTP_PROXY'), 'http://127.0.0.1:9')
  first, second = two(argv, argv, no_proxy='example.com', **proxies)
  assert (first[0], second[0]) == (0, 0), first[2] + second[2]
  assert 'proxy' not in first[2] + second[2]


def test_sigterm_ends_an_evaluation_at_once(undisturbed, digits_dir):
  flags = ('--config=configs/evaluate.py:digits', f'--config.data.data_dir={digits_dir}')
  pod = subprocess.Popen(
    [str(POD), '2', '1', 'evaluate', f'--checkpoint={undisturbed}', *flags],
    cwd=train_runs.ROOT,
    env={
      **os.environ,
      'PYTHON': sys.executable,
      'PYTHONPATH': FAULTS,
      'FAULT': 'wait 0 0 /',
      'XLA_FLAGS': '',
    },
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  assert pod.stdout
  for line in pod.stdout:
    if 'waits as a test asked' in line:
      break
  pod.terminate()
  finished(pod, 60)  # the process that waits would do so for ever


def test_a_refusal_is_not_tried_again(tmp_path, digits_dir, cache):
  code, said = finished(start(tmp_path / 'run', digits_dir, cache, '--config.batch_size=3'))
  assert code == 2, said
  assert 'cannot be shared evenly' in said
  assert 'restarting all' not in said


@pytest.mark.parametrize('argv', [[], ['2', 'x', 'train'], ['0', '2', 'train'], ['2', '2']])
def test_a_wrong_call_of_local_pod_prints_its_usage(argv):
  done = subprocess.run([POD, *argv], capture_output=True, text=True, check=False)
  assert done.returncode == 2
  assert 'Usage: launch/local_pod.sh N D COMMAND' in done.stderr
