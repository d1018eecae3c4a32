"""`mixer-jax transfer`: rates are tried, the best one is reported, and compared with the paper."""

import io
import json
import shutil

import cv2
import jax
import numpy as np
import pytest
from sklearn.datasets import load_digits

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.data import tasks
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs import workdir
from mixer_jax.studies import transfer, transfer_report
from tests.docs.file_keys import assert_documented
from tests.helpers import made

CIFAR10, CIFAR100, KITTI = 'avg5/cifar10', 'avg5/cifar100', 'vtab/kitti_distance'


def digit(index: int) -> dict:
  """A handwritten digit as a record of CIFAR-10."""
  digits = load_digits()
  levels = cv2.resize(digits.images[index] * (255 / 16), (32, 32)).round().astype(np.uint8)
  label = int(digits.target[index])
  return {'image': np.stack([levels] * 3, -1), 'label': label, 'id': str(index)}


@pytest.fixture(scope='module')
def place(tmp_path_factory):
  """Digits as `cifar10`, what does not decode as `cifar100`, and a small Mixer to start from."""
  root = tmp_path_factory.mktemp('transfer')
  splits = {'train': [digit(i) for i in range(300)], 'test': [digit(i) for i in range(300, 360)]}
  made.prepare_splits('cifar10', splits, root, file_format='array_record')
  broken = [
    {'image': io.BytesIO(b'nothing'), 'label': 3, 'coarse_label': 0, 'id': str(i)}
    for i in range(50)
  ]
  splits = {'train': broken, 'test': broken}
  made.prepare_splits('cifar100', splits, root, file_format='array_record')
  small = mixer_jax.MixerConfig(
    image_size=16,
    patch_size=4,
    num_blocks=1,
    hidden_dim=16,
    tokens_mlp_dim=8,
    channels_mlp_dim=16,
    num_classes=3,
  )
  mixer_jax.save(root / 'start.npz', small, mixer_jax.init(small, jax.random.key(0)))
  return root


def flags(place, folder, *more: str, names: str = CIFAR10, seeds: int = 1) -> list[str]:
  fields = {
    'seeds': seeds,
    'learning_rates.avg5': '0.05,0.5',
    'learning_rates.vtab': '0.05,0.5',
    'tasks.*.data.data_dir': place,
    'tasks.*.data.threads': 0,
    'tasks.*.total_steps': 8,
    'tasks.*.batch_size': 64,
    'tasks.*.eval_batch_size': 64,
    'tasks.*.optimizer.warmup_steps': 2,
  }
  return [
    'transfer',
    '--config=configs/transfer.py:digits',
    f'--workdir={folder}',
    *([f'--tasks={names}'] if names else []),
    f'--checkpoint={place / "start.npz"}',
    *(f'--config.{name}={value}' for name, value in fields.items()),
    *more,
  ]


def report_of(folder) -> dict:
  values = json.loads((folder / 'transfer.json').read_text())
  assert_documented('transfer.json', values)
  return values


def test_the_best_rate_is_reported_on_the_test_part_and_the_command_resumes(
  place, tmp_path, capsys
):
  rates = '--config.learning_rates.avg5=0.5,1e30'
  assert main(flags(place, tmp_path, rates)) == 0
  task = report_of(tmp_path)['tasks'][CIFAR10]
  assert task['rate'] == 0.5
  assert ': the run stops' in task['rates']['1e+30']['diverged']
  assert task['deviation'] is None
  tried, reported = (tmp_path / CIFAR10 / name for name in ('sweep/0.5', 'report/0.5/0'))
  for folder, splits, top1 in (
    (tried, ['train', 'val'], task['rates']['0.5']['top1']),
    (reported, ['train', 'test'], task['mean']),
  ):
    data = json.loads((folder / 'config.json').read_text())['config']['data']
    assert [data['train_split'], data['eval_split']] == splits
    (row,) = [row for row in read_metrics(folder) if row.get('event') == 'eval']
    assert row['top1'] == top1
  assert not (tried / 'checkpoints').exists()
  assert not (tmp_path / CIFAR10 / 'sweep/1e+30/checkpoints').exists()
  capsys.readouterr()
  assert main(['evaluate', f'--checkpoint={reported}', '--json=-']) == 0
  result = json.loads(capsys.readouterr().out)
  assert result['top1'] == task['mean']
  assert result['data'] == 'avg5/cifar10/test'
  before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('metrics.jsonl')}
  assert main(flags(place, tmp_path, rates)) == 0
  assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob('metrics.jsonl')} == before
  assert report_of(tmp_path)['tasks'][CIFAR10] == task
  assert main(flags(place, tmp_path, rates, '--config.tasks.*.batch_size=32')) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert f'{CIFAR10} at learning rate 0.5, seed 0, scored on val: ' in line
  assert 'holds another run: its config.batch_size is 64, not 32' in line


def complete(folder, top1: float, loss: float = 1.0) -> None:
  """Leaves the metrics of a run that ended."""
  folder.mkdir(parents=True)
  file = MetricsFile(folder)
  file.write({'event': 'eval', 'step': 8, 'top1': top1, 'loss': loss})
  file.write({'event': 'end', 'step': 8, 'device_hours': 0.5})


def test_a_task_that_fails_does_not_lose_the_others(place, tmp_path, capsys):
  for rate, loss in (('0.05', 1.5), ('0.5', 1.25)):
    complete(tmp_path / CIFAR10 / 'sweep' / rate, 90.0, loss)
  for seed, top1 in enumerate((91.0, 94.0)):
    complete(tmp_path / CIFAR10 / 'report/0.5' / str(seed), top1)
  assert main(flags(place, tmp_path, names=f'{CIFAR100},{CIFAR10}', seeds=2)) == 2
  out, err = capsys.readouterr()
  assert f'1 of 2 tasks failed ({CIFAR100})' in err.splitlines()[-1]
  assert 'Traceback' not in err
  report = report_of(tmp_path)['tasks']
  assert 'does not decode' in report[CIFAR100]['failed']
  assert report[CIFAR10]['rate'] == 0.5  # of equal top-1 the one with the lower loss
  assert report[CIFAR10]['top1'] == [91, 94]
  assert report[CIFAR10]['deviation'] == pytest.approx(np.std([91, 94], ddof=1))
  rows = [line.split() for line in out.splitlines()]
  assert rows[1] == [CIFAR100, '16', 'failed']
  assert rows[2] == [CIFAR10, '16', '0.5', '90.00', '92.50', '±', '2.12']
  assert (
    f'| {CIFAR10} | 16 | 0.5 | 90.00 | 92.50 ± 2.12 |  |' in (tmp_path / 'transfer.md').read_text()
  )


def test_a_workdir_has_one_command(place, tmp_path, capsys):
  with workdir.held(tmp_path):
    assert main(flags(place, tmp_path)) == 2
  assert 'another process is training in' in capsys.readouterr().err


def results_of(suite: str, size: int) -> dict:
  """Results of all tasks of a suite, with made-up figures."""
  return {
    task.name: {
      'group': task.group,
      'image_size': size,
      'rates': {'0.01': {'top1': 50.0}},
      'rate': 0.01,
      'top1': [float(number), number + 2.0],
      'mean': number + 1.0,
      'deviation': 2**0.5,
    }
    for number, task in enumerate(tasks.suite(suite))
  }


@pytest.mark.parametrize(
  ('suite', 'size', 'pretrained', 'row'),
  [
    ('vtab', 448, 'imagenet21k', 'VTAB-1k 10.00 ± 1.41 74.95'),
    ('vtab', 448, 'imagenet2012', 'VTAB-1k 10.00 ± 1.41'),
    ('avg5', 224, 'imagenet21k', 'Avg 5 3.00 ± 1.41 93.63'),
    ('avg5', 448, 'imagenet21k', 'Avg 5 3.00 ± 1.41 93.91'),
    ('avg5', 448, 'jft300m', 'Avg 5 3.00 ± 1.41 95.13'),
    ('avg5', 224, 'jft300m', 'Avg 5 3.00 ± 1.41'),  # Table 3 has two, of 7 and 14 epochs
    ('avg5', 224, None, 'Avg 5 3.00 ± 1.41'),
  ],
)
def test_the_mean_of_a_suite_is_next_to_that_of_the_paper(suite, size, pretrained, row):
  values = transfer.summarize(
    {'checkpoint': 'x', 'tasks': results_of(suite, size)},
    transfer.origin_of(mixer_jax.VARIANTS['L/16'], pretrained),
  )
  lines = [' '.join(line.split()) for line in transfer_report.text(values).splitlines()]
  assert row in lines
  if suite == 'vtab':
    assert [line.split()[0] for line in lines[20:23]] == ['natural', 'specialised', 'structured']
  if pretrained == 'jft300m':
    assert (
      "the paper's L/16 of jft300m (7 epochs), 224 px: ImageNet 84.05, Avg 5 94.51 (Table 3)"
      in lines
    )


def test_a_figure_that_the_paper_lacks_is_left_out():
  origin = transfer.origin_of(mixer_jax.VARIANTS['BiT-R50x1'], 'jft300m')
  text = transfer_report.text(transfer.summarize({'checkpoint': 'x', 'tasks': {}}, origin))
  assert text.endswith(
    "the paper's BiT-R50x1 of jft300m (7 epochs), 224 px: ImageNet 73.69 (Table 3)\n"
  )


NOT_PREPARED = (
  '3 data sets are not prepared, run this first: mixer-jax data prepare imagenet2012 '
  '--data-dir={place}; mixer-jax data prepare oxford_iiit_pet --data-dir={place}; '
  'mixer-jax data prepare oxford_flowers102 --data-dir={place}\n'
)


@pytest.mark.parametrize(
  ('names', 'more', 'message'),
  [
    ('', (), 'one of the arguments --suite --tasks is required'),
    (CIFAR10, ('--suite=avg5',), '--suite: not allowed with argument --tasks'),
    ('', ('--suite=avg6',), "no suite of tasks 'avg6': there are vtab, avg5"),
    ('avg5/cifar11', (), "'avg5/cifar11': did you mean avg5/cifar10"),
    ('', ('--suite=avg5',), NOT_PREPARED),
    ('vtab/dtd', (), 'data set dtd is not prepared in'),
    (CIFAR10, ('--config.seeds=0',), 'config.seeds must be a whole number in 1..1000'),
    (CIFAR10, ('--config.learning_rates.avg5=',), 'learning_rates.avg5=: positive numbers'),
    (CIFAR10, ('--config.learning_rates.avg5=1,-1',), 'positive numbers, as in 0.003,0.01'),
    (CIFAR10, ('--checkpoint=nosuch.npz',), 'scored on val: no weights file nosuch.npz'),
    (CIFAR10, ('--config.tasks.*.model.num_classes=9',), 'has 9 classes and avg5/cifar10/train'),
    (CIFAR10, ('--config=configs/digits.py',), 'begin with configs/transfer.py'),
    (CIFAR10, ('--config=configs/transfer.py:S/32',), 'patch_size cannot differ'),
  ],
)
def test_bad_input_is_one_line_and_writes_nothing(names, more, message, place, tmp_path, capsys):
  argv = flags(place, tmp_path / 'all', *more, names=names)
  if more[:1] == ('--config=configs/digits.py',):
    argv = [flag for flag in argv if not flag.startswith('--config.')]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message.format(place=place) in error
  assert not (tmp_path / 'all').exists()


def test_without_weights_to_start_from_there_is_nothing_to_transfer(place, tmp_path, capsys):
  argv = [flag for flag in flags(place, tmp_path / 'all') if 'checkpoint' not in flag]
  assert main(argv) == 2
  assert f'{CIFAR10} starts from no weights: name them with --checkpoint' in capsys.readouterr().err


@pytest.mark.long
def test_two_tasks_two_rates_two_seeds(place, tmp_path, capsys):
  splits = {'train': 810, 'validation': 210, 'test': 12}
  records = {name: [made.kitti_record(i) for i in range(count)] for name, count in splits.items()}
  made.prepare_splits('kitti', records, place, file_format='array_record')
  capsys.readouterr()
  more = ('--config.keep_sweep=true', f'--config.tasks.{CIFAR10}.total_steps=150')
  argv = flags(place, tmp_path, *more, names=f'{CIFAR10},{KITTI}', seeds=2)
  assert main(argv) == 0
  report = report_of(tmp_path)['tasks']
  assert list(report) == [CIFAR10, KITTI]
  assert report[KITTI]['image_size'] == 32  # grown from 16, as 448 from 224
  assert report[CIFAR10]['mean'] > 40  # of ten classes
  for name, task in report.items():
    assert set(task['rates']) == {'0.05', '0.5'}
    best = max(task['rates'].values(), key=lambda score: (score['top1'], -score['loss']))
    assert task['rates'][f'{task["rate"]}'] == best
    assert len(task['top1']) == 2
    assert task['mean'] == pytest.approx(np.mean(task['top1']))
    assert task['deviation'] == pytest.approx(np.std(task['top1'], ddof=1))
    folder = tmp_path / name
    assert len(list(folder.glob('sweep/*/checkpoints/*'))) == 2
    assert len(list(folder.glob(f'report/{task["rate"]}/*/checkpoints/*'))) == 2
  shown = capsys.readouterr().out
  assert shown.splitlines()[1].startswith(CIFAR10)
  kept = {path: path.stat().st_mtime_ns for path in tmp_path.rglob('metrics.jsonl')}
  gone = tmp_path / KITTI / 'report' / f'{report[KITTI]["rate"]}' / '1'
  shutil.rmtree(gone)
  assert main(argv) == 0
  assert report_of(tmp_path)['tasks'] == report  # the run that was lost came to the same
  changed = {path for path, time in kept.items() if path.stat().st_mtime_ns != time}
  assert changed == {gone / 'metrics.jsonl'}
  assert capsys.readouterr().out == shown
