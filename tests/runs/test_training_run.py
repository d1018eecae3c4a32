"""Training from Python: a run with several evaluations, its result, and the same run resumed."""

import signal
import threading

import jax
import numpy as np
import pytest

from mixer_jax.checkpoints.state_files import read_metadata
from mixer_jax.checkpoints.store import read_params
from mixer_jax.errors import InterruptedRunError, PreemptedError, StorageError, UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import parameters
from mixer_jax.runlog import appended
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import run_report
from mixer_jax.runs.evaluators import registry
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.hooks import RunHooks
from mixer_jax.runs.train_result import result_of
from mixer_jax.runs.training_run import train, train_experiment
from mixer_jax.storage import RETRY_SETTING
from mixer_jax.studies import study
from tests.helpers.configs import run_config
from tests.helpers.train_runs import SMALL_FIELDS

EVALS = {
  'blocks': {'kind': 'probe', 'every': 2, 'iterations': 3, 'train_split': 'train[:20%]'},
  'head': {'kind': 'weight_norm'},
  'half': {'kind': 'classification', 'every': 2, 'split': 'test[:50%]'},
}


@pytest.fixture(scope='module', autouse=True)
def weight_norm():
  with pytest.MonkeyPatch.context() as patch:
    patch.setitem(registry.KINDS, 'weight_norm', 'tests.runs.weight_norm')
    yield


def small(digits_dir, **changes):
  fields = {**SMALL_FIELDS, 'data.data_dir': str(digits_dir), **changes}
  return run_config('configs/digits.py', **fields)


def of_evals(digits_dir, **changes):
  stopping = {'early_stopping.metric': 'blocks/pre_logits', 'keep_best': True}
  return small(digits_dir, total_steps=9, evals=EVALS, **stopping, **changes)


@pytest.fixture(scope='module')
def run(tmp_path_factory, digits_dir):
  """(workdir, result) of a run that was trained in a thread of its own, as in a notebook."""
  workdir, results = tmp_path_factory.mktemp('runs') / 'run', []
  thread = threading.Thread(target=lambda: results.append(train(of_evals(digits_dir), workdir)))
  thread.start()
  thread.join()
  return workdir, results[0]


def test_evaluations_write_their_figures(run):
  workdir, _ = run
  rows = read_metrics(workdir)
  steps = lambda event: [row['step'] for row in rows if row.get('event') == event]
  assert steps('weight_norm') == [3, 6, 9]
  assert steps('eval') == [3, 6, 9, 6]  # the report is of the best
  best = next(row for row in rows if row.get('event') == 'end')['best_step']
  assert best == 6  # the only one with a probe before the end
  assert steps('probe') == steps('classification') == [6]
  probe = next(row for row in rows if row.get('event') == 'probe')
  assert (probe['evaluator'], probe['data']) == ('blocks', 'digits/test')
  assert 0 <= probe['block_0'] <= 100
  assert 0 <= probe['pre_logits_train'] <= 100
  half = next(row for row in rows if row.get('event') == 'classification')
  assert (half['evaluator'], half['examples']) == ('half', 180)


def test_the_result_is_that_of_the_file(run):
  workdir, result = run
  assert (result.step, result.best_step, result.reported_step) == (9, 6, 6)
  assert sorted(result.evaluations) == [3, 6, 9]
  assert sorted(result.curve('head/norm')) == [3, 6, 9]
  assert list(result.curve('blocks/pre_logits')) == [6]
  assert result.numbers['top1'] == result.curve()[6]
  assert result.numbers['half/examples'] == 180
  assert result.core_days == result.device_hours / 24 > 0
  assert result_of(workdir) == result


def test_a_run_is_resumed_with_what_it_evaluated_before(run, digits_dir):
  workdir, before = run
  result = train_experiment(build_experiment(of_evals(digits_dir)), workdir)
  assert {step: figures['loss'] for step, figures in result.evaluations.items()} == {
    step: figures['loss'] for step, figures in before.evaluations.items()
  }
  assert result.numbers['blocks/pre_logits'] == before.numbers['blocks/pre_logits']
  assert result_of(workdir) == result
  with pytest.raises(UserError, match=r'its config\.evals\.head\.kind is'):
    train(of_evals(digits_dir).with_fields({'evals.head.kind': 'probe'}), workdir)


def test_a_run_that_has_not_ended_has_no_result(tmp_path):
  assert result_of(tmp_path) is None


@pytest.mark.parametrize(
  ('row', 'message'),
  [
    ({'kind': 'prob'}, 'config.evals.x.kind must be one of classification, few_shot, probe'),
    ({'kind': 'probe', 'every': 0}, 'config.evals.x.every must be a positive whole number'),
    ({'kind': 'probe', 'layer': 'block_0'}, 'config.evals.x has unknown fields: layer'),
    ({'kind': 'few_shot'}, 'config.evals.x lacks'),
    ({'kind': 'classification', 'split': 'trian'}, "no split 'trian'"),
  ],
)
def test_rows_of_evals_that_are_refused(row, message, digits_dir):
  with pytest.raises(UserError, match=message):
    build_experiment(small(digits_dir, evals={'x': row}))


def test_names_of_evals_that_are_taken(digits_dir):
  with pytest.raises(UserError, match=r'config\.evals has a row called'):
    build_experiment(small(digits_dir, evals={'test': {'kind': 'probe'}}))


def test_a_metric_that_no_evaluation_has_is_refused_with_those_there_are(digits_dir):
  config = small(digits_dir, evals=EVALS, **{'early_stopping.metric': 'blocks/block_9'})
  with pytest.raises(UserError, match=r'have top1, top5, loss, blocks/block_0, blocks/pre_logits'):
    build_experiment(config)


# --- Runs that are disturbed.


def plain(digits_dir, **changes):
  """Return a run of six steps that saves at 3 and 6 and evaluates there."""
  return small(digits_dir, keep_best=True, **changes)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory, digits_dir):
  """Return the workdir of a run that nothing happened to."""
  workdir = tmp_path_factory.mktemp('undisturbed') / 'run'
  train(plain(digits_dir), workdir)
  return workdir


def events(workdir) -> list[tuple[str, int]]:
  return [(row['event'], row['step']) for row in read_metrics(workdir) if 'event' in row]


def assert_same_end(workdir, undisturbed) -> None:
  for place in (workdir, workdir / 'checkpoints' / '3'):
    same = undisturbed / place.relative_to(workdir)
    found, wanted = (parameters.flatten(read_params(path)[1]) for path in (place, same))
    assert {k: np.asarray(v).tobytes() for k, v in found.items()} == {
      k: np.asarray(v).tobytes() for k, v in wanted.items()
    }
  found, wanted = (read_metadata(path / 'checkpoints' / '6') for path in (workdir, undisturbed))
  assert found == wanted
  result, expected = result_of(workdir), result_of(undisturbed)
  assert result is not None
  assert expected is not None
  assert (result.best_step, result.numbers['loss']) == (
    expected.best_step, expected.numbers['loss'],
  )  # fmt: skip


class Signals:
  """Sends a signal in one of the evaluations of a run, before its first batch."""

  def __init__(self, monkeypatch, number: signal.Signals, evaluation: int):
    evaluate = classify.evaluate
    self.calls = 0

    def evaluate_after_the_signal(*how, **more):
      self.calls += 1
      if self.calls == evaluation:
        signal.raise_signal(number)
      return evaluate(*how, **more)

    monkeypatch.setattr(classify, 'evaluate', evaluate_after_the_signal)


@pytest.mark.parametrize(
  ('number', 'evaluation', 'error'),
  [(signal.SIGTERM, 1, PreemptedError), (signal.SIGUSR1, 2, PreemptedError),
   (signal.SIGINT, 1, InterruptedRunError)],
)  # fmt: skip
def test_a_run_that_is_told_in_an_evaluation_has_saved_and_leaves(
  digits_dir, tmp_path, undisturbed, monkeypatch, number, evaluation, error
):
  with monkeypatch.context() as patch:
    Signals(patch, number, evaluation)
    with pytest.raises(error):
      train(plain(digits_dir), tmp_path)
  step = 3 * evaluation
  assert events(tmp_path)[-2:] == [('save', step), ('preempted', step)]
  assert read_metadata(tmp_path / 'checkpoints' / str(step))['standing']['step'] == step - 3
  train(plain(digits_dir), tmp_path)
  assert events(tmp_path)[-1] == ('end', 6)
  assert_same_end(tmp_path, undisturbed)


def test_a_signal_in_the_last_evaluation_of_a_run_ends_its_study(digits_dir, tmp_path, monkeypatch):
  runs = [study.Run(name, plain(digits_dir), str(tmp_path / name)) for name in ('a', 'b')]
  planned = study.check(runs)
  finish = run_report.finish

  def finish_after_the_signal(*how):
    signal.raise_signal(signal.SIGTERM)
    return finish(*how)

  with monkeypatch.context() as patch:
    patch.setattr(run_report, 'finish', finish_after_the_signal)
    with pytest.raises(PreemptedError, match='preempted after a'):
      study.train_all(planned)
  assert result_of(tmp_path / 'a') is not None
  assert not (tmp_path / 'b').exists()


def test_pictures_that_are_missing_are_made_again(digits_dir, tmp_path, undisturbed, monkeypatch):
  run = study.Run('a', plain(digits_dir), str(tmp_path))

  def no_picture(*_):
    raise RuntimeError('killed')

  with monkeypatch.context() as patch:
    patch.setattr(run_report, 'write_whole', no_picture)
    with pytest.raises(RuntimeError, match='killed'):
      study.train_all(study.check([run]))
  assert result_of(tmp_path) is None
  study.train_all(study.check([run]))
  assert_same_end(tmp_path, undisturbed)
  (tmp_path / 'curves.png').unlink()
  study.train_all(study.check([run]))
  assert run_report.has_pictures(tmp_path)
  rows = len(read_metrics(tmp_path))
  study.train_all(study.check([run]))
  assert len(read_metrics(tmp_path)) == rows


@pytest.mark.parametrize('row', [2, 5, 9, 12])
def test_a_full_disk_at_any_row_loses_nothing(digits_dir, tmp_path, undisturbed, monkeypatch, row):
  append, written = appended._append, []

  def append_until_full(path, record):
    written.append(record)
    if len(written) >= row:
      raise OSError(28, 'No space left on device')
    append(path, record)

  with monkeypatch.context() as patch:
    patch.setenv(RETRY_SETTING, '0')
    patch.setattr(appended, '_append', append_until_full)
    with pytest.raises(StorageError, match=r'metrics\.jsonl cannot be written now: No space left'):
      train(plain(digits_dir), tmp_path)
  train(plain(digits_dir), tmp_path)
  assert_same_end(tmp_path, undisturbed)


def test_a_step_that_needs_too_much_memory_is_one_line(digits_dir, tmp_path, monkeypatch):
  def step(self, number, metrics):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 44000 bytes.')

  monkeypatch.setattr(RunHooks, 'step', step)
  with pytest.raises(UserError) as refused:
    train(plain(digits_dir, batch_size=32), tmp_path)
  assert str(refused.value) == (
    'training needs more memory than there is (Out of memory allocating 44000 bytes.): try '
    '--config.accumulate=2 or --config.model.remat=True or --config.mesh.data=1 '
    '--config.mesh.fsdp=8 or a smaller --config.batch_size'
  )
