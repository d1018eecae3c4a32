"""Runs that are stopped, or whose disk is full, end as if nothing had happened."""

import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax.checkpoints.run_states import read_params
from mixer_jax.checkpoints.state_files import read_metadata
from mixer_jax.errors import InterruptedRunError, PreemptedError, StorageError, UserError
from mixer_jax.evaluation import classify
from mixer_jax.evaluation.pipelined import pipelined
from mixer_jax.models import parameters
from mixer_jax.parallel.memory import remedies_named
from mixer_jax.runlog import appended
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import memory_remedies, run_report
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.train_result import result_of
from mixer_jax.runs.training_run import train
from mixer_jax.storage import RETRY_SETTING
from mixer_jax.studies import study
from tests.helpers.configs import run_config
from tests.helpers.train_runs import FAMILIES, SMALL_FIELDS

pytestmark = pytest.mark.usefixtures('compiled')


def plain(digits_dir, **changes):
  """Return a run of six steps that saves at 3 and 6 and evaluates there."""
  fields = {**SMALL_FIELDS, 'data.data_dir': str(digits_dir), 'keep_best': True, **changes}
  return run_config('configs/digits.py', **fields)


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
  [
    (signal.SIGTERM, 1, PreemptedError),
    pytest.param(signal.SIGUSR1, 2, PreemptedError, marks=pytest.mark.long),
    pytest.param(signal.SIGINT, 1, InterruptedRunError, marks=pytest.mark.long),
  ],
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


@pytest.mark.parametrize('family', ['vit', pytest.param('resnet', marks=pytest.mark.long)])
def test_a_run_of_another_family_that_is_told_to_leave_ends_in_the_same_bits(
  digits_dir, tmp_path, monkeypatch, family
):
  own = {name: value for name, value in SMALL_FIELDS.items() if not name.startswith('model.')}
  where = {'data.data_dir': str(digits_dir), 'keep_best': True}
  mesh = {'mesh.data': 2, 'mesh.fsdp': 2, 'mesh.model': 2}
  file, small = FAMILIES[family]
  config = run_config(file, **own, **where, **mesh, **small)
  train(config, tmp_path / 'undisturbed')
  with monkeypatch.context() as patch:
    Signals(patch, signal.SIGTERM, 1)
    with pytest.raises(PreemptedError):
      train(config, tmp_path / 'run')
  assert events(tmp_path / 'run')[-2:] == [('save', 3), ('preempted', 3)]
  train(config, tmp_path / 'run')
  assert_same_end(tmp_path / 'run', tmp_path / 'undisturbed')


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


@pytest.mark.long
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


@pytest.mark.parametrize('row', [9, *(pytest.param(row, marks=pytest.mark.long) for row in (2, 5))])
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


def test_a_step_that_needs_too_much_memory_is_one_line(digits_dir, monkeypatch):
  experiment = build_experiment(plain(digits_dir, batch_size=32))
  monkeypatch.setattr(memory_remedies, '_room', lambda mesh: None)
  with (
    pytest.raises(UserError) as refused,
    remedies_named('training', lambda: memory_remedies.remedies(experiment)),
  ):
    raise jax.errors.JaxRuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 44000 bytes.')
  assert str(refused.value) == (
    'training needs more memory than there is (Out of memory allocating 44000 bytes.): try '
    '--config.accumulate=2 or --config.model.remat=True or --config.mesh.data=1 '
    '--config.mesh.fsdp=8 or a smaller --config.batch_size'
  )
  with pytest.raises(jax.errors.JaxRuntimeError), remedies_named('training', list):
    raise jax.errors.JaxRuntimeError('INTERNAL: a bug')


GIB = 2**30


@pytest.mark.parametrize(
  ('needed', 'tried', 'found'),
  [
    # 24 images on each of 8 devices: micro-batches of 24, 12, 8, 6, 4, 3, 2 and 1.
    ({1: 30 * GIB, 3: 9 * GIB}, [1, 3], (3, 64)),
    ({1: 30 * GIB, 3: 11 * GIB, 6: 5 * GIB}, [1, 3, 6], (6, 32)),
    ({1: None, 4: 8 * GIB}, [1, 4], (4, 48)),  # the compiler itself runs out of memory
    ({1: 9 * GIB}, [1], None),  # the failure had another reason
    ({1: 900 * GIB}, [1], None),  # not even one image fits
    ({1: 30 * GIB, 3: 11 * GIB, 6: 11 * GIB, 12: 11 * GIB}, [1, 3, 6, 12], None),
  ],
)
def test_the_remedy_names_a_batch_that_fits(digits_dir, monkeypatch, needed, tried, found):
  experiment = build_experiment(plain(digits_dir, batch_size=192))
  compiled = []

  def needed_by(exp, accumulate):
    compiled.append(accumulate)
    return needed[accumulate]

  monkeypatch.setattr(memory_remedies, '_needed', needed_by)
  monkeypatch.setattr(memory_remedies, '_room', lambda mesh: 10 * GIB)
  first, *_, last = memory_remedies.remedies(experiment)
  assert compiled == tried
  if found is None:
    assert (first, last) == ('--config.accumulate=2', 'a smaller --config.batch_size')
  else:
    accumulate, size = found
    gib = needed[accumulate] / GIB
    assert first == (
      f'--config.accumulate={accumulate} (fits, with {gib:.1f} of 10.0 GiB per device)'
    )
    assert last == f'--config.batch_size={size} (fits as well)'


@pytest.mark.long
def test_the_bytes_of_a_step_are_the_compilers_and_fall_with_the_micro_batch(digits_dir):
  experiment = build_experiment(plain(digits_dir, batch_size=512))
  one, four = (memory_remedies._needed(experiment, number) for number in (1, 4))
  assert one
  assert four
  assert one / 6 < four < one / 2
  room = memory_remedies._room(experiment.evaluated.mesh)
  assert room
  assert 8 * room < 2**50


def test_an_evaluation_that_needs_too_much_memory_is_one_line():
  with pytest.raises(UserError, match=r'a smaller --config\.eval_batch_size'):
    list(pipelined(lambda batch: jax.jit(lambda: jnp.zeros(2**48))(), [1]))
