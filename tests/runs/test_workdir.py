"""A run claims its workdir before it writes anything else."""

import errno
import fcntl
import json
import multiprocessing
import pathlib

import pytest

from mixer_jax import UserError
from mixer_jax.checkpoints.state_format import FORMAT
from mixer_jax.errors import StorageError
from mixer_jax.paths import create_whole
from mixer_jax.runs import workdir
from mixer_jax.runs.initial_model import new_model
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.workdir import check_stored, claimed, stored_run
from tests.helpers.configs import run_config


def claim(folder, config: RunConfig):
  return claimed(folder, config, new_model(config.model))


def began(folder, config: RunConfig, *, steps: bool = True) -> RunConfig:
  """Begin a run; with steps it has a state."""
  with claim(folder, config):
    pass
  if steps:
    (folder / 'checkpoints' / '4').mkdir(parents=True)
  return config


def test_the_config_is_stored_with_its_format_and_version(tmp_path):
  config = began(tmp_path / 'a' / 'run', run_config())
  run = json.loads((tmp_path / 'a' / 'run' / 'config.json').read_text())
  assert (run['format'], run['version']) == (FORMAT, '0.1.0')
  assert run['config'] == config.to_fields()
  assert check_stored(tmp_path / 'a' / 'run', config) == {
    **{name: run[name] for name in ('config', 'model')},
    'format': FORMAT,
  }


def test_of_two_starts_the_second_is_refused_and_writes_nothing(tmp_path):
  first, second = run_config(), run_config(seed=1)
  with claim(tmp_path, first):
    written = (tmp_path / 'config.json').read_bytes()
    with pytest.raises(UserError, match='another process is training in'), claim(tmp_path, second):
      pytest.fail('two processes train')
    assert (tmp_path / 'config.json').read_bytes() == written
  (tmp_path / 'checkpoints' / '4').mkdir(parents=True)
  with pytest.raises(UserError, match=r'config\.seed is 0, not 1;'), claim(tmp_path, second):
    pytest.fail('another run was accepted')


def test_what_another_start_wrote_between_the_check_and_the_claim_is_seen(tmp_path):
  assert check_stored(tmp_path, run_config(seed=1)) is None
  began(tmp_path, run_config())
  with pytest.raises(UserError, match=r'config\.seed is 0'), claim(tmp_path, run_config(seed=1)):
    pytest.fail('another run was accepted')


def test_without_locks_the_config_is_still_created_once(tmp_path, monkeypatch):
  """As in a bucket: the other start writes after this one has looked."""
  monkeypatch.setattr(workdir, '_lock', lambda *_: None)
  write = workdir.create_whole

  def late(path, text):
    write(path, json.dumps({'config': {}, 'model': {}}))
    write(path, text)

  monkeypatch.setattr(workdir, 'create_whole', late)
  with pytest.raises(UserError, match='another process has just begun a run'):
    began(tmp_path, run_config())
  assert json.loads((tmp_path / 'config.json').read_text()) == {'config': {}, 'model': {}}


def began_config(folder) -> pathlib.Path:
  began(folder, run_config())
  return folder / 'config.json'


@pytest.mark.parametrize('number', sorted(workdir._NO_LOCKS))
def test_a_file_system_without_locks_is_warned_of(tmp_path, monkeypatch, caplog, number):
  def flock(*_):
    raise OSError(number, 'not here')

  monkeypatch.setattr(fcntl, 'flock', flock)
  began(tmp_path, run_config())
  assert [r.getMessage() for r in caplog.records] == [
    f'{tmp_path} is on a file system without locks (not here): start one process at a time there'
  ]


def test_a_run_that_ended_before_its_first_step_is_replaced(tmp_path, caplog):
  began(tmp_path, run_config(), steps=False)
  (tmp_path / 'metrics.jsonl').write_text('{"event": "start", "step": 0, "seconds": 1}\n')
  other = began(tmp_path, run_config(seed=1), steps=False)
  stored = stored_run(tmp_path)
  assert stored is not None
  assert stored['config'] == other.to_fields()
  assert 'ended before its first step: replaced' in caplog.text
  (tmp_path / 'metrics.jsonl').write_text('{"step": 2, "loss": 1, "seconds": 1}\n')
  with pytest.raises(UserError, match=r'config\.seed is 1, not 0'):
    check_stored(tmp_path, run_config())


@pytest.mark.parametrize('state', ['4', '4.damaged'])
def test_states_also_damaged_ones_keep_another_run_out(tmp_path, state):
  began(tmp_path, run_config(), steps=False)
  (tmp_path / 'checkpoints' / state).mkdir(parents=True)
  with pytest.raises(UserError, match='holds another run'):
    check_stored(tmp_path, run_config(seed=1))


def test_a_damaged_config_is_one_line_and_an_unreadable_one_is_tried_again(tmp_path, monkeypatch):
  path = began_config(tmp_path)
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0')

  def unreadable(*_):
    raise OSError(errno.EIO, 'Input/output error')

  with monkeypatch.context() as patch:
    patch.setattr(workdir.epath.Path(path).__class__, 'open', unreadable)
    with pytest.raises(StorageError, match=r'config\.json cannot be read now'):
      stored_run(tmp_path)
  for text in ('{', '[1]', '{"config": 1, "model": {}}', '[' * 100_000, '\udcff'):
    path.write_bytes(text.encode(errors='surrogateescape'))
    with pytest.raises(UserError, match=r'config\.json is (damaged|not of)') as error:
      stored_run(tmp_path)
    assert not isinstance(error.value, StorageError)


def test_a_full_disk_is_tried_again_and_leaves_nothing(tmp_path, monkeypatch):
  def full(*_):
    raise OSError(errno.ENOSPC, 'No space left on device')

  monkeypatch.setattr(workdir, 'create_whole', full)
  with pytest.raises(StorageError, match=r'config\.json cannot be written now: No space'):
    began(tmp_path / 'run', run_config())
  assert not (tmp_path / 'run').exists()


def test_spellings_of_a_path_are_one_run(tmp_path, monkeypatch):
  config = run_config(keep_best=True, eval_every=2)  # few-shot figures decide the result
  monkeypatch.chdir(tmp_path)
  (tmp_path / 'link').symlink_to(tmp_path / 'data')
  spell = lambda name: config.with_fields({'data.name': name, 'fewshot.name': name})
  began(tmp_path / 'run', spell(f'folder:{tmp_path}/data'))
  for name in ('folder:data', 'folder:data/', f'folder:file://{tmp_path}/data', 'folder:./link'):
    assert check_stored(tmp_path / 'run', spell(name))
  with pytest.raises(UserError, match=r'config\.fewshot.name'):
    check_stored(tmp_path / 'run', spell('folder:other'))
  with pytest.raises(UserError, match=r'config\.data.name is'):
    check_stored(tmp_path / 'run', config)


def test_a_field_that_the_model_did_not_have_is_that_of_its_model(tmp_path):
  began(tmp_path, run_config())
  run = json.loads((tmp_path / 'config.json').read_text())
  for name in ('family', 'gelu', 'head_bias'):
    del run['config']['model'][name]
  (tmp_path / 'config.json').write_text(json.dumps(run))
  assert check_stored(tmp_path, run_config())
  with pytest.raises(UserError, match=r"config\.model\.gelu is 'tanh', not 'erf'"):
    check_stored(tmp_path, run_config(**{'model.gelu': 'erf'}))


def test_create_whole_never_replaces(tmp_path):
  create_whole(tmp_path / 'a', 'first')
  with pytest.raises(FileExistsError):
    create_whole(tmp_path / 'a', 'second')
  assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [('a', 'first')]


TRIES = 10


def _claim_often(folder, seed, start, results):
  config = run_config(seed=seed)
  for attempt in range(TRIES):
    workdir = folder / str(attempt)
    start.wait()
    try:
      with claim(workdir, config):
        (workdir / 'checkpoints' / '1').mkdir(parents=True)
        (workdir / 'winner').write_text(str(seed))
      results.put((attempt, 'wins'))
    except UserError as error:
      results.put((attempt, str(error)))


@pytest.mark.long
def test_of_starts_at_once_exactly_one_config_wins(tmp_path):
  context = multiprocessing.get_context('spawn')
  start, results = context.Barrier(2), context.Queue()
  starts = [
    context.Process(target=_claim_often, args=(tmp_path, seed, start, results)) for seed in range(2)
  ]
  for process in starts:
    process.start()
  found = sorted(results.get(timeout=120) for _ in range(2 * TRIES))
  for process in starts:
    process.join()
  for attempt in range(TRIES):
    folder = tmp_path / str(attempt)
    refused, won = sorted(text for number, text in found if number == attempt)
    assert won == 'wins'
    assert refused.startswith((f'another process is training in {folder}', f'{folder} holds'))
    stored = stored_run(folder)
    assert stored is not None
    assert str(stored['config']['seed']) == (folder / 'winner').read_text()
