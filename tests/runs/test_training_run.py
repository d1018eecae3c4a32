"""Training from Python: a run with several evaluations, its result, and the same run resumed."""

import shutil
import threading

import pytest

from mixer_jax.checkpoints.state_files import read_metadata
from mixer_jax.errors import UserError
from mixer_jax.runlog import terminal
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs.evaluators import registry
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.train_result import result_of
from mixer_jax.runs.training_run import train, train_experiment
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
def run(tmp_path_factory, digits_dir, shown):
  """(workdir, result) of a run that was trained in a thread of its own, as in a notebook."""
  workdir, results = tmp_path_factory.mktemp('runs') / 'run', []
  thread = threading.Thread(target=lambda: results.append(train(of_evals(digits_dir), workdir)))
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(terminal, 'live', shown.append)
    thread.start()
    thread.join()
  return workdir, results[0]


@pytest.fixture(scope='module')
def shown() -> list[str]:
  """The live lines of the run."""
  return []


def test_evaluations_show_how_far_they_are(run, shown):
  evaluations = [line for line in shown if not line.startswith('step ')]
  begun = [line.removeprefix('0 of ') for line in evaluations if line.startswith('0 of ')]
  test, half = '360 images of digits/test', '180 images of digits/test[:50%]'
  probe = ['287 images of digits/train[:20%]', test]
  assert begun == [test, test, *probe, half, test, test]
  assert any(' images/s  ' in line for line in evaluations)


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


SAM = {'optimizer.sam_rho': 0.2, 'optimizer.sam_rho_end': 0.1, 'optimizer.sam_alpha': 0.5}


@pytest.mark.long
@pytest.mark.usefixtures('compiled')
def test_a_sharpness_aware_run_resumes_with_the_same_bits(digits_dir, tmp_path):
  config = small(digits_dir, **SAM, mixup=0.2, accumulate=2, **{'model.dropout': 0.1})
  train(config, tmp_path / 'run')
  shutil.copytree(tmp_path / 'run', tmp_path / 'again')
  shutil.rmtree(tmp_path / 'again' / 'checkpoints' / '6')
  train(config, tmp_path / 'again')
  starts = [row['step'] for row in read_metrics(tmp_path / 'again') if row.get('event') == 'start']
  assert starts == [0, 3]
  ends = [read_metadata(tmp_path / name / 'checkpoints' / '6') for name in ('run', 'again')]
  assert ends[0] == ends[1]
  assert ends[0]['digests']


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
