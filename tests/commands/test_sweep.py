"""`mixer-jax sweep`: an experiment with each value of fields, resumed, extended, and the best."""

import json

import pytest
from PIL import Image

from mixer_jax.__main__ import main
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.studies import sweep_report
from mixer_jax.studies.run import run_study
from tests.docs.file_keys import assert_documented
from tests.helpers import train_runs

SPLITS = (
  *('--config.data.train_split=train[:20%]', '--config.data.eval_split=train[90%:]'),
  '--config.data.test_split=test[:64]',
)
RATE = 'optimizer.learning_rate'


def flags(workdir, data_dir, *more: str) -> list[str]:
  where = (
    '--config=configs/digits.py',
    f'--workdir={workdir}',
    f'--config.data.data_dir={data_dir}',
  )
  return ['sweep', *where, *train_runs.SMALL, *train_runs.TINY_MODEL, *SPLITS, *more]


def finish(folder, evaluation: float, test: float | None = None, **more: float) -> None:
  """Leave the metrics of a run that ended."""
  folder.mkdir(parents=True)
  file = MetricsFile(folder)
  file.write({'event': 'eval', 'step': 3, 'top1': 1.0, 'loss': 9.0})
  file.write({'event': 'eval', 'step': 6, 'top1': evaluation, 'loss': 1.0, **more})
  if test is not None:
    file.write({'event': 'test', 'step': 6, 'top1': test, 'loss': 2.0})
  file.write({'event': 'end', 'step': 6, 'device_hours': 0.5})


@pytest.mark.long
def test_values_are_trained_resumed_and_added(digits_dir, tmp_path, capsys, compiled):
  study = tmp_path / 'study'
  argv = flags(study, digits_dir)
  assert main([*argv, '--over', f'config.{RATE}=0.003']) == 0
  (row,) = json.loads((study / 'sweep.json').read_text())['rows']
  own = study / f'{RATE}=0.003' / '0'
  rows = read_metrics(own)
  assert row['evaluation'] == [[r for r in rows if r.get('event') == 'eval'][-1]['top1']]
  assert row['test'] == [[r for r in rows if r.get('event') == 'test'][-1]['top1']]
  capsys.readouterr()
  assert main([*argv, '--over', f'config.{RATE}=1e30,0.003']) == 0
  values = json.loads((study / 'sweep.json').read_text())
  assert_documented('sweep.json', values)
  assert read_metrics(own) == rows
  assert list(values['rows'][0]['diverged']) == ['0']
  assert values['best'] == {RATE: 0.003}
  output = capsys.readouterr().out
  assert '1 diverged' in output
  assert f'best on digits/train[90%:]: {RATE}=0.003' in output
  before = read_metrics(study / f'{RATE}=1e+30' / '0')
  assert main([*argv, '--over', f'config.{RATE}=1e30,0.003']) == 0
  assert read_metrics(study / f'{RATE}=1e+30' / '0') == before  # it is not tried again


def test_the_evaluation_split_chooses_and_the_test_split_reports(digits_dir, tmp_path, capsys):
  for rate, evaluation, test in ((0.01, 60.0, 50.0), (0.03, 70.0, 40.0), (0.06, 65.0, 90.0)):
    for seed in (0, 1):
      finish(tmp_path / f'{RATE}={rate}' / str(seed), evaluation + seed, test + 2 * seed)
  over = ('--over', f'config.{RATE}=0.01,0.03,0.06')
  assert main(flags(tmp_path, digits_dir, *over, '--seeds=2')) == 0
  values = json.loads((tmp_path / 'sweep.json').read_text())
  assert_documented('sweep.json', values)
  assert values['best'] == {RATE: 0.03}
  assert (values['chosen_on'], values['tested_on']) == ('digits/train[90%:]', 'digits/test[:64]')
  row = values['rows'][1]
  assert (row['seeds'], row['evaluation'], row['test']) == ([0, 1], [70, 71], [40, 42])
  assert (row['mean'], row['test_mean']) == (70.5, 41)
  assert row['test_deviation'] == pytest.approx(2**0.5)
  shown = ' '.join(capsys.readouterr().out.split())
  assert '0.03 70.50 ± 0.71 41.00 ± 1.41' in shown
  assert f'{RATE}=0.03 (top-1, %: 70.50 ± 0.71; on digits/test[:64]: 41.00 ± 1.41)' in shown
  with Image.open(tmp_path / 'sweep.png') as picture:
    assert picture.size[0] > 500


def test_two_fields_a_loss_and_no_test_split(digits_dir, tmp_path, capsys):
  for rate, decay, loss in ((0.1, 0.0, 3.0), (0.1, 1.0, 2.0), (0.2, 0.0, 5.0), (0.2, 1.0, 4.0)):
    folder = tmp_path / f'{RATE}={rate}' / f'optimizer.weight_decay={decay}' / '0'
    finish(folder, 50.0, loss=loss)
  over = ('--over', f'config.{RATE}=0.1,0.2', '--over', 'config.optimizer.weight_decay=0,1')
  # The same images as those of the choice.
  more = ('--config.early_stopping.metric=loss', '--config.data.test_split=train[90%:]')
  assert main(flags(tmp_path, digits_dir, *over, *more)) == 0
  values = json.loads((tmp_path / 'sweep.json').read_text())
  assert values['best'] == {RATE: 0.1, 'optimizer.weight_decay': 1.0}
  assert values['tested_on'] is None
  assert [row['test'] for row in values['rows']] == [[]] * 4
  shown = capsys.readouterr().out
  assert 'config.data.test_split would give' in shown
  assert '(loss: 2.00)' in shown


def test_nothing_is_chosen_where_every_value_diverged():
  row = {'values': {'a': 1}, 'seeds': [], 'diverged': {'0': 'NaN'}, 'evaluation': [], 'test': []}
  values = {
    'fields': {'a': [1]}, 'metric': 'top1', 'chosen_on': 'x', 'tested_on': 'y', 'rows': [row],
    'best': None,
  }  # fmt: skip
  text = sweep_report.text(values)
  assert '1 diverged' in text
  assert 'no value is chosen' in text
  assert sweep_report.files(values)['sweep.png'].startswith(b'\x89PNG')


BAD = [
  (['--over', 'optimizer.learning_rate=1'], 'write config.FIELD=A,B'),
  (['--over', 'config.optimizer.learning_rate'], 'write config.FIELD=A,B'),
  (['--over', 'config.optimizer.learning_rate='], 'write config.FIELD=A,B'),
  (['--over', 'config.optimizer.learning_rat=1'], 'did you mean config.optimizer.learning_rate'),
  (['--over', 'config.optimizer=1'], 'is a group of fields'),
  (['--over', f'config.{RATE}=x,1'], 'is a number'),
  (['--over', f'config.{RATE}=0.1,0.1'], '0.1, 0.1: some, and each once'),
  (['--over', f'config.{RATE}=0.1,'], 'is a number'),
  (['--over', 'config.seed=1,2'], 'config.seed is not swept'),
  (['--over', f'config.{RATE}=1', '--over', f'config.{RATE}=2'], 'is there twice'),
  (
    [x for name in ('b1', 'b2', 'eps') for x in ('--over', f'config.optimizer.{name}=0.1')],
    'one or two fields, not 3',
  ),
  (['--over', 'config.batch_size=16,12'], 'batch_size=12, seed 0: batch_size 12 cannot'),
  (['--over', 'config.data.eval_split=train[80%:90%],train[90%:]'], 'train[80%:90%] and digits/'),
  (['--over', 'config.data.test_split=test[:9],test[9:]'], 'config.data.test_split is digits/'),
  (['--over', 'config.early_stopping.metric=top1,loss'], 'metric is top1 and loss: set one'),
  (
    ['--over', 'config.loss=softmax,sigmoid', '--config.early_stopping.metric=loss'],
    'config.loss is softmax and sigmoid',
  ),
  (['--over', f'config.{RATE}=1', '--seeds=0'], 'config.seeds must be'),
  (
    ['--over', f'config.{RATE}=1', '--config.early_stopping.metric=5-shot'],
    "config.early_stopping.metric is '5-shot'",
  ),
]  # fmt: skip


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[' '.join(more) for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, digits_dir, tmp_path, capsys):
  assert main(flags(tmp_path / 'study', digits_dir, *more)) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'study').exists()


def test_it_is_a_study_for_python(digits_dir, tmp_path):
  for size in (16, 32):
    finish(tmp_path / f'batch_size={size}' / '0', float(size), 1.0)
  fields = {
    **{f.removeprefix('--config.').partition('=')[0]: f.partition('=')[2] for f in SPLITS},
    'data.data_dir': str(digits_dir),
    'eval_batch_size': 64,
  }
  report = run_study(
    'sweep', 'configs/digits.py', str(tmp_path), overrides=fields, over={'batch_size': [16, 32]}
  )
  assert report is not None
  assert report.values['best'] == {'batch_size': 32}
  assert report.files == ('sweep.json', 'sweep.png')
