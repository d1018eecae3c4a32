"""Early stopping from end to end: the best state is kept and reported, even after disturbances."""

import io
import json
import signal
import time

import jax
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.checkpoints.state_files import read_metadata
from mixer_jax.checkpoints.store import Store
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs.hooks import RunHooks
from mixer_jax.runs.train_result import result_of
from tests.commands import test_pod
from tests.helpers import train_runs

FLAGS = (
  '--config.total_steps=60',
  '--config.eval_every=3',
  '--config.checkpoint_every=4',
  '--config.keep_checkpoints=1',
  '--config.early_stopping.metric=loss',
  '--config.early_stopping.patience=2',
  '--config.optimizer.learning_rate=0.05',
  '--config.data.eval_split=test[:50%]',
  '--config.data.test_split=test[50%:]',
)


@pytest.fixture(scope='module')
def stopped(tmp_path_factory, digits_dir, compiled):
  """Return the workdir of a run that stopped early, without interruption."""
  workdir = tmp_path_factory.mktemp('stopped') / 'run'
  assert train_runs.train(workdir, digits_dir, *FLAGS) == 0
  return workdir


def rows(workdir, event: str) -> list[dict]:
  return [row for row in read_metrics(workdir) if row.get('event') == event]


def evaluations(workdir) -> dict[int, float]:
  return {row['step']: row['loss'] for row in rows(workdir, 'eval')}


def test_a_run_stops_after_its_best_which_is_kept_and_reported(stopped, capsys):
  losses = evaluations(stopped)
  best = min(losses, key=losses.__getitem__)
  last = max(losses)
  assert last == best + 2 * 3 < 60
  assert min(losses) < best  # an evaluation before it was worse
  (stop,) = rows(stopped, 'early_stop')
  assert (stop['step'], stop['best_step'], stop['best']) == (last, best, losses[best])
  assert stop['metric'] == 'loss'
  assert Store(stopped, keep=1).steps() == [best, last]
  (end,) = rows(stopped, 'end')
  assert (end['step'], end['best_step']) == (last, best)
  (test,) = rows(stopped, 'test')
  assert (test['step'], test['examples']) == (best, 180)
  result = result_of(stopped)
  assert result is not None
  assert (result.best_step, result.numbers['top1']) == (best, test['top1'])
  for name in ('curves.png', 'predictions.png'):
    assert Image.open(io.BytesIO((stopped / name).read_bytes())).size[0] > 500

  # The workdir means the state that the run is reported by: the figures that were logged.
  capsys.readouterr()
  for name, split, step, loss in (
    ('', 'test[50%:]', best, test['loss']),
    ('/best', 'test[:50%]', best, losses[best]),
    ('/newest', 'test[:50%]', last, losses[last]),
  ):
    more = f'--config.data.eval_split={split}'
    assert main(['evaluate', f'--checkpoint={stopped}{name}', '--json=-', more]) == 0
    said = capsys.readouterr()
    figures = json.loads(said.out)
    assert (figures['step'], figures['loss']) == (step, pytest.approx(loss, rel=1e-6))
    assert f'{stopped}{name}, step {step}\n' in said.err


def bits(folder) -> dict:
  return jax.tree.map(lambda leaf: leaf.tobytes(), mixer_jax.load(folder)[1])


def assert_same_end(workdir, undisturbed) -> None:
  assert evaluations(workdir) == evaluations(undisturbed)
  for name in ('newest', 'best'):
    assert bits(workdir / name) == bits(undisturbed / name)
  names = ('step', 'best_step')
  for event in ('early_stop', 'end'):
    found, wanted = (rows(folder, event)[-1] for folder in (workdir, undisturbed))
    assert [found[name] for name in names] == [wanted[name] for name in names]
  assert rows(workdir, 'test')[-1]['loss'] == rows(undisturbed, 'test')[-1]['loss']
  assert Store(workdir, keep=1).steps() == Store(undisturbed, keep=1).steps()
  metadata = [
    read_metadata(Store(folder, keep=1).directory / str(rows(folder, 'end')[-1]['step']))
    for folder in (workdir, undisturbed)
  ]
  assert metadata[0]['standing'] == metadata[1]['standing']


def test_a_run_that_is_preempted_and_fails_ends_as_without(
  stopped, digits_dir, tmp_path, monkeypatch, capsys
):
  best = rows(stopped, 'end')[0]['best_step']
  # It is preempted at the step of the best evaluation, for which there is no time.
  with monkeypatch.context() as context:
    context.setattr(RunHooks, 'should_stop', lambda self, step: step == best)
    assert train_runs.train(tmp_path, digits_dir, *FLAGS) == 75
  assert max(evaluations(tmp_path)) < best

  def fail(*_):
    raise RuntimeError('a fault')

  with monkeypatch.context() as context:  # after it has stopped
    context.setattr(RunHooks, 'report', fail)
    with pytest.raises(RuntimeError, match='a fault'):
      train_runs.train(tmp_path, digits_dir, *FLAGS)
  assert result_of(tmp_path) is None
  steps = len(read_metrics(tmp_path))
  capsys.readouterr()
  assert train_runs.train(tmp_path, digits_dir, *FLAGS) == 0
  said = capsys.readouterr().err
  assert f'the run is finished after step {max(evaluations(tmp_path))}\n' in said
  assert [row.get('event') for row in read_metrics(tmp_path)[steps:]] == ['start', 'test', 'end']
  assert_same_end(tmp_path, stopped)


BAD = [
  (
    ['--config.early_stopping.metric=5-shot'],
    "metric is '5-shot', and the evaluations have top1, top5, loss; N-shot with "
    '--config.fewshot.every=1',
  ),
  (['--config.early_stopping.metric=real'], "metric is 'real', and the evaluations have top1"),
  (['--config.early_stopping.patience=-1'], 'early_stopping.patience must be a whole number'),
  (['--config.eval_every=0'], 'patience counts evaluations: set config.eval_every'),
  (['--config.data.test_split=validation'], "no split 'validation'"),
  (['--config.fewshot.every=-1'], 'config.fewshot.every must be a whole number'),
  (['--config.fewshot.shots=1,x'], 'config.fewshot.shots=1,x: whole numbers, as in 1,5,10'),
  (['--config.fewshot.every=1', '--config.fewshot.shots=999'], 'too few for 999 shots'),
  (['--config.fewshot.every=1', '--config.fewshot.name=imagenet2012'], 'imagenet2012'),
  (['--config.total_epochs=-1'], 'config.total_epochs must be 0 or more, is -1.0'),
  (['--config.total_epochs=1e12'], 'they must be below 2^31'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[-1] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, digits_dir, tmp_path, capsys):
  assert train_runs.train(tmp_path / 'run', digits_dir, *FLAGS, *more) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'run').exists()


def test_evaluations_that_decide_may_not_change(stopped, digits_dir, capsys):
  for more in ('--config.eval_every=6', '--config.early_stopping.patience=3'):
    assert train_runs.train(stopped, digits_dir, *FLAGS, more) == 2
    assert f'its config.{more[9:-2]} is ' in capsys.readouterr().err


@pytest.mark.long
def test_killed_again_and_again(digits_dir, tmp_path, rng):
  def started(folder):
    return train_runs.start(tmp_path / folder, digits_dir, *FLAGS, cache=tmp_path / 'cache')

  undisturbed = started('undisturbed')
  output, _ = undisturbed.communicate()
  assert undisturbed.returncode == 0, output
  code = None
  while code != 0:
    process = started('run')
    before = len(read_metrics(tmp_path / 'run'))
    rows_to_come = rng.randrange(2, 20)
    while process.poll() is None:
      if len(read_metrics(tmp_path / 'run')) >= before + rows_to_come:
        process.kill()
      time.sleep(0.001)
    output, _ = process.communicate()
    code = process.returncode
    assert code in (0, -signal.SIGKILL), output
  assert_same_end(tmp_path / 'run', tmp_path / 'undisturbed')


@pytest.mark.long
def test_all_processes_of_a_pod_stop_at_one_step(digits_dir, tmp_path):
  more = (*FLAGS, '--config.fewshot.every=2')
  for folder, fault in (('undisturbed', ''), ('run', f'term 0 8 {tmp_path / "mark"}')):
    pod = test_pod.start(
      tmp_path / folder, digits_dir, tmp_path / 'cache', *more, fault=fault, MIXER_JAX_BACKOFF='0'
    )
    code, said = test_pod.finished(pod)
    assert code == 0, said
  assert (tmp_path / 'mark').exists()
  assert rows(tmp_path / 'run', 'early_stop')[0]['step'] < 60
  assert_same_end(tmp_path / 'run', tmp_path / 'undisturbed')
