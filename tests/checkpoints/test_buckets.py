"""A workdir in a bucket: the whole way through gcsfs and TensorStore, without TensorFlow."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from tests.helpers.fake_gcs import FakeGcs

_ROOT = pathlib.Path(__file__).parents[2]
_WORKDIR = 'gs://bucket/run'

_TRAIN = """
import sys
from mixer_jax.__main__ import main
code = main(sys.argv[1:])
assert 'tensorflow' not in sys.modules
sys.exit(code)
"""

_CREATE = """
from mixer_jax.paths import create_whole
create_whole('gs://bucket/run/config.json', 'first')
try:
  create_whole('gs://bucket/run/config.json', 'second')
except FileExistsError:
  print('there is one')
"""

_LOAD = """
import sys
import mixer_jax
for path in sys.argv[1:]:
  config, params = mixer_jax.load(path)
  print(config.num_blocks, params['head']['kernel'].shape)
assert 'tensorflow' not in sys.modules
"""


def _python(gcs: FakeGcs, code: str, *args: str, **variables: str) -> subprocess.CompletedProcess:
  done = subprocess.run(
    [sys.executable, '-c', code, *args],
    cwd=_ROOT,
    env={**os.environ, 'XLA_FLAGS': '', **variables, **gcs.environment},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  assert not gcs.unknown
  return done


def _train(gcs: FakeGcs, data_dir: pathlib.Path, *more: str) -> str:
  """What the train command says on a run of 6 steps, saved at 3 and at 6."""
  fields = {
    'total_steps': 6,
    'checkpoint_every': 3,
    'eval_every': 0,
    'log_every': 2,
    'batch_size': 16,
    'eval_batch_size': 360,
    'model.num_blocks': 1,
    'optimizer.warmup_steps': 2,
    'data.data_dir': data_dir,
  }
  flags = [f'--config.{name}={value}' for name, value in fields.items()]
  where = ['--config=configs/digits.py', f'--workdir={_WORKDIR}']
  # Compiled once for all runs: they are short.
  compiled = {
    'JAX_COMPILATION_CACHE_DIR': str(data_dir.parent / 'compiled'),
    'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
  }
  return _python(gcs, _TRAIN, 'train', *where, *flags, *more, **compiled).stderr


def _rows(objects: dict[str, bytes]) -> list[dict]:
  return [json.loads(line) for line in objects['run/metrics.jsonl'].splitlines()]


def _steps(objects: dict[str, bytes]) -> set[str]:
  return {name.split('/')[2] for name in objects if name.startswith('run/checkpoints/')}


@pytest.fixture(scope='module')
def trained(digits_dir) -> dict[str, bytes]:
  """The objects of a run that is complete."""
  with FakeGcs('bucket') as gcs:
    _train(gcs, digits_dir)
    return gcs.objects


def test_run_lies_in_bucket(trained):
  assert _steps(trained) == {'3', '6'}
  rows = _rows(trained)
  assert [row['step'] for row in rows if 'event' not in row] == [2, 4, 6]
  events = [row['event'] for row in rows if 'event' in row]
  assert events == ['start', 'startup', 'save', 'save', 'eval', 'end']
  top = {name.removeprefix('run/') for name in trained if name.count('/') == 1}
  assert top == {*('config.json', 'data.json.gz', 'metrics.jsonl', 'curves.png', 'predictions.png')}
  assert json.loads(trained['run/config.json'])['config']['total_steps'] == 6
  for name in ('curves.png', 'predictions.png'):
    assert trained[f'run/{name}'].startswith(b'\x89PNG')


def test_a_config_is_created_once():
  with FakeGcs('bucket') as gcs:
    assert _python(gcs, _CREATE).stdout == 'there is one\n'
    assert gcs.objects['run/config.json'] == b'first'


def test_same_command_finds_complete_run(trained, digits_dir):
  with FakeGcs('bucket', trained) as gcs:
    _train(gcs, digits_dir)
    before, after = _rows(trained), _rows(gcs.objects)
  assert after[: len(before)] == before
  more = after[len(before) :]
  assert [row['event'] for row in more] == ['start', 'eval', 'end']
  assert more[0]['restored'] == f'{_WORKDIR}/checkpoints/6'
  assert more[0]['step'] == 6


def test_damaged_state_is_set_aside(trained, digits_dir):
  data = [name for name in trained if name.startswith('run/checkpoints/6/') and '/d/' in name]
  largest = max(data, key=lambda name: len(trained[name]))
  broken = bytearray(trained[largest])
  broken[len(broken) // 2] ^= 1
  with FakeGcs('bucket', {**trained, largest: bytes(broken)}) as gcs:
    said = _train(gcs, digits_dir, '--config.keep_checkpoints=1')
    objects = gcs.objects
  assert f'checkpoint {_WORKDIR}/checkpoints/6 is damaged' in said
  start = [row for row in _rows(objects) if row.get('event') == 'start'][-1]
  assert start['restored'] == f'{_WORKDIR}/checkpoints/3'
  assert _steps(objects) == {'6', '6.damaged'}  # done again; 3 was one too many then
  assert objects[largest.replace('/6/', '/6.damaged/')] == broken


def test_load_passes_over_unfinished_state(trained):
  """A process that dies while it saves leaves a folder of the final name: no rename in a bucket."""
  died = {
    name.replace('run/', 'died/', 1): data
    for name, data in trained.items()
    if '/6/params/ocdbt' not in name and '/6/commit_success' not in name
  }
  with FakeGcs('bucket', trained | died) as gcs:
    done = _python(gcs, _LOAD, _WORKDIR, 'gs://bucket/died')
  assert done.stdout.splitlines() == 2 * ['1 (64, 10)']
  assert 'gs://bucket/died/checkpoints/6 is damaged' in done.stderr
  assert f'{_WORKDIR}/checkpoints/6 is damaged' not in done.stderr
