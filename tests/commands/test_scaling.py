"""`mixer-jax scaling`: parts of a training split, trained, resumed, summarised and drawn."""

import json
import pathlib

import pytest
from PIL import Image

from configs import data_scaling
from mixer_jax.__main__ import main
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs.train_result import TrainResult, result_of
from tests.helpers import train_runs

STUDY = """
from configs import data_scaling

def get_config():
  study = data_scaling.get_config('digits')
  for name in ('mixer-s', 'resnet', 'vit'):
    del study.models[name]
  study.update(percents='5,100', epochs='2.8,0.14', seeds=1)
  return study
"""
MORE = (
  '--config.data.train_split=train[:20%]',  # 287 images
  '--config.eval_every=1',
  '--config.early_stopping.patience=1',
  '--config.optimizer.learning_rate=0',  # so no evaluation is better than the first
)


def flags(config, workdir, data_dir, *more: str, models=('mixer-b',)) -> list[str]:
  small = [*train_runs.SMALL, *train_runs.TINY_MODEL, *MORE, f'--config.data.data_dir={data_dir}']
  own = [flag.replace('--config.', f'--config.models.{name}.') for name in models for flag in small]
  return ['scaling', f'--config={config}', f'--workdir={workdir}', *own, *more]


def ended(folder) -> TrainResult:
  result = result_of(folder)
  assert result is not None
  return result


def test_parts_are_trained_on_stop_early_and_resume(digits_dir, tmp_path, capsys, compiled):
  (tmp_path / 'study.py').write_text(STUDY)
  argv = flags(tmp_path / 'study.py', tmp_path / 'study', digits_dir)
  assert main(argv) == 0
  report = json.loads((tmp_path / 'study' / 'scaling.json').read_text())
  parts = report['mixer-b']['parts']
  assert {percent: part['images'] for percent, part in parts.items()} == {'5': 14, '100': 287}
  assert [part['steps'] for part in parts.values()] == [2, 3]  # of 16 images
  for percent, part in parts.items():
    (run,) = part['runs']
    assert (run['ended'], run['best']) == (2, 1)
    folder = tmp_path / 'study' / 'mixer-b' / percent / '0'
    assert run['top1'] == part['mean'] == ended(folder).numbers['top1']
    assert run['top1'] == [r for r in read_metrics(folder) if r.get('event') == 'test'][-1]['top1']
    assert part['deviation'] is None  # of one seed
  assert report['mixer-b']['of'] == 'digits/test'
  before = len(read_metrics(tmp_path / 'study' / 'mixer-b' / '5' / '0'))
  capsys.readouterr()
  assert main(argv) == 0
  assert len(read_metrics(tmp_path / 'study' / 'mixer-b' / '5' / '0')) == before
  assert f'{parts["100"]["mean"]:.2f}' in capsys.readouterr().out


ALL = ('mixer-b', 'mixer-s', 'resnet', 'vit')
RESNET = ('--config.models.resnet.model.stages=1',)


def digits_flags(workdir, data_dir, *more: str) -> list[str]:
  argv = flags('configs/data_scaling.py:digits', workdir, data_dir, *more, models=ALL)
  return [
    flag for flag in argv if 'resnet.model.num' not in flag and 'resnet.model.hid' not in flag
  ]


def finish(folder: pathlib.Path, **numbers: float) -> None:
  """Leaves the metrics of a run that stopped early at step 9, whose best is that of step 6."""
  folder.mkdir(parents=True)
  file = MetricsFile(folder)
  for step, top1 in ((3, 10.0), (6, 60.0), (9, 40.0)):
    file.write({'event': 'eval', 'step': step, 'top1': top1, 'loss': 1.0})
  file.write({'event': 'early_stop', 'step': 9, 'best_step': 6})
  if numbers:
    file.write({'event': 'test', 'step': 6, **numbers})
  file.write({'event': 'end', 'step': 9, 'best_step': 6, 'device_hours': 0.5})


def test_complete_runs_are_summarised_and_drawn(digits_dir, tmp_path, capsys):
  for number, model in enumerate(ALL):
    for percent in (3, 10, 30, 100):
      for seed in (0, 1):
        top1 = 50.0 + number + percent / 10 + 4 * seed
        finish(tmp_path / model / str(percent) / str(seed), top1=top1)
  assert main(digits_flags(tmp_path, digits_dir, '--config.seeds=2')) == 0
  report = json.loads((tmp_path / 'scaling.json').read_text())
  assert list(report) == list(ALL)
  part = report['resnet']['parts']['30']
  assert (part['images'], part['mean']) == (86, 57)  # 30 % of 20 % of 1,437
  assert part['deviation'] == pytest.approx(8**0.5)
  assert part['runs'][1] == {'seed': 1, 'ended': 9, 'best': 6, 'top1': 59}
  shown = ' '.join(capsys.readouterr().out.split())
  assert 'top-1, % of digits/test' in shown
  assert 'resnet 30 % 86 6, 6 57.00 ± 2.83' in shown
  with Image.open(tmp_path / 'scaling.png') as picture:
    assert picture.size[0] > 500


def test_an_outcome_is_that_of_the_best_step_where_there_is_no_test_split(tmp_path):
  finish(tmp_path / 'a')
  assert ended(tmp_path / 'a').numbers['top1'] == 60
  finish(tmp_path / 'b', top1=55.0)
  assert ended(tmp_path / 'b').numbers['top1'] == 55


BAD = [
  (['--config.seeds=0'], 'config.seeds must be a whole number in 1..1000'),
  (['--config.percents=3,x'], 'config.percents=3,x: numbers, as in 1,5,10'),
  (['--config.percents=0,10,30,100'], 'each in (0, 100], and once'),
  (['--config.percents=3,10'], 'config.epochs=466,140,46,14: more than 0 for each of 3,10 %'),
  (['--config.metric=5-shot'], "config.metric is '5-shot', and mixer-b is evaluated by top1, top5"),
  (
    ['--config.models.resnet.data.train_split=train[5:]'],
    "resnet: config.data.train_split 'train[5:]' cannot be cut into parts",
  ),
  (['--config.models.resnet.batch_size=12'], 'resnet on 3 %, seed 0: batch_size 12 cannot'),
  (['--config=configs/digits.py'], 'begin with configs/data_scaling.py'),
  (['--config=configs/data_scaling.py:cifar1'], "no TFDS data set 'cifar1'"),
  (['--config=configs/data_scaling.py'], 'needs an argument, configs/data_scaling.py:DATA'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[0] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, digits_dir, tmp_path, capsys):
  argv = digits_flags(tmp_path / 'study', digits_dir, *more)
  if more[0].startswith('--config='):
    argv = ['scaling', f'--workdir={tmp_path / "study"}', *more]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'study').exists()


def test_the_full_scale_is_that_of_jft():
  config = data_scaling.get_config('imagenet21k')
  assert (config.percents, config.epochs) == ((3, 10, 30, 100), (233, 70, 23, 7))
  for name, own in config.models.items():
    assert own.early_stopping.patience > 0
    assert own.data.name == 'imagenet21k'
    rates = {'L': 1e-3, 'B': 3e-3, 'ViT-B': 8e-4, 'ViT-L': 4e-4}
    assert own.optimizer.learning_rate == rates[name.split('/')[0]]
