"""`mixer-jax bench` on a tiny model, and every way to use it wrongly."""

import dataclasses
import json
import math
import re

import jax
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.bench import data_input, input_rates, measure, suite
from mixer_jax.bench.settings import BenchSettings
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning import host_input
from tests.docs.file_keys import assert_documented
from tests.helpers import configs

TINY = mixer_jax.MixerConfig(
  patch_size=16, num_blocks=1, hidden_dim=16, tokens_mlp_dim=8, channels_mlp_dim=16
)
FLAGS = ('bench', '--model=tiny', '--image-size=32', '--classes=10', '--rounds=1', '--steps=2')


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
  """A model among the paper's, a few photographs instead of many, and no long multiplies."""
  monkeypatch.setitem(models.VARIANTS, 'tiny', TINY)
  monkeypatch.setattr(data_input, '_DIFFERENT', 8)
  monkeypatch.setattr(measure, '_CPU_SIDE', 128)
  monkeypatch.setattr(suite, '_SEARCH_SECONDS', 0.01)


def check_program(row: dict, passes: int, config=None) -> None:
  """Check the numbers of one program, each against another that it follows from."""
  config = config or mixer_jax.MixerConfig(16, 1, 16, 8, 16, image_size=32, num_classes=10)
  forward = models.forward_flops(config)
  rate = row['images_per_second']
  assert row['batch_size'] == 32
  assert rate == pytest.approx(8 * row['images_per_second_per_device'])
  assert rate == pytest.approx(32 / row['step_seconds'])
  assert row['flops']['model'] == 32 * passes * forward
  assert row['flops']['compiler'] > row['flops']['model'] / 2
  assert row['mfu'] == pytest.approx(passes * forward * rate / 8 / 0.5e12)
  assert row['share_of_multiply'] == pytest.approx(
    row['mfu'] * 0.5e12 / row['multiply_flops_per_second']
  )
  assert row['peak_bytes'] > row['program_bytes_per_device'] > 0
  assert min(row['compile_seconds'].values()) > 0


def test_a_program_and_an_evaluation_are_measured_and_printed(capsys, tmp_path):
  file = tmp_path / 'bench.json'
  argv = (*FLAGS, '--what=forward,evaluate', '--batch=32', '--peak=0.5', f'--json={file}')
  assert main([*argv]) == 0
  text = capsys.readouterr().out
  report = json.loads(file.read_text())
  assert_documented('bench --json', report)
  assert (report['devices'], report['device'], report['dtype']) == (8, 'cpu', 'float32')
  assert report['peak_flops_per_second'] == 0.5e12
  assert list(report['parts']) == ['forward', 'evaluate']
  check_program(report['parts']['forward'], 1)
  assert report['parts']['evaluate']['images'] == data_input.PHOTOGRAPHS
  evaluated = report['parts']['evaluate']
  slower = min(evaluated['forward_images_per_second'], evaluated['input_images_per_second'])
  assert evaluated['share_of_slower'] == pytest.approx(evaluated['images_per_second'] / slower)
  both = sum(1 / evaluated[f'{name}_images_per_second'] for name in ('forward', 'input'))
  assert evaluated['share_of_both'] == pytest.approx(evaluated['images_per_second'] * both)
  for part in ('MFU', 'of a plain multiply', 'GFLOP per image', 'from the cache', '\nevaluate '):
    assert part in text


@pytest.mark.long
def test_all_other_parts_are_measured_and_printed(capsys):
  parts = 'train,loop,input,checkpoint,cka'
  assert main([*FLAGS, f'--what={parts}', '--batch=32', '--peak=0.5', '--json=-']) == 0
  output = capsys.readouterr()
  report = json.loads(output.out)
  assert_documented('bench --json', report)
  assert list(report['parts']) == parts.split(',')
  check_program(report['parts']['train'], 3)
  check_program(report['parts']['cka'], 1)
  assert 0 < report['parts']['loop']['share_with_saves'] < math.inf
  state = report['parts']['checkpoint']
  params = sum(4 * leaf.size for leaf in jax.tree.leaves(models.shapes(TINY)))
  assert 0 < state['bytes'] < 4 * params
  assert 0 < state['blocked_seconds'] <= state['written_seconds']
  for part in report['parts']:
    assert f'\n{part} ' in output.err


@pytest.mark.long
def test_the_fastest_batch_is_searched_for_and_an_unknown_peak_is_reported(capsys):
  assert main([*FLAGS, '--what=forward', '--batch=auto', '--json=-']) == 0
  output = capsys.readouterr()
  report = json.loads(output.out)
  row = report['parts']['forward']
  assert report['peak_flops_per_second'] is row['mfu'] is None
  assert row['share_of_multiply'] > 0
  assert 'the peak of cpu in float32 is not known' in output.err
  assert row['batch_size'] % 8 == 0
  assert f'in batches of {2 * row["batch_size"]}' in output.err  # compared with a larger one


def test_for_a_batch_that_does_not_fit_the_largest_that_does_is_named(capsys, monkeypatch):
  needed = measure.program_bytes
  limit = 8 * 400_000
  monkeypatch.setattr(measure, 'free_memory', lambda: limit)
  fitting = {}

  def program_bytes(program):
    rows = program.in_avals[0][1]['image'].shape[0]
    fitting[rows] = needed(program) <= limit / 8
    return needed(program)

  monkeypatch.setattr(measure, 'program_bytes', program_bytes)
  assert main([*FLAGS, '--what=forward', '--batch=8192']) == 3
  match = re.search(r'a batch size of (\d+) fits', capsys.readouterr().err)
  assert match
  found = int(match[1])
  assert fitting[found]
  assert not any(fits for rows, fits in fitting.items() if rows > found)


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--model=B/17'], "no model 'B/17', did you mean B/16"),
    (['--what=forward,flight'], "part 'flight' is not one of forward, train"),
    (['--what='], 'what is empty'),
    (['--batch=-1'], '--batch=-1: auto, or a whole number'),
    (['--batch=12'], 'batch_size 12 cannot be shared evenly by 8 devices: take 16'),
    (['--json=/nowhere/bench.json'], 'no folder for --json'),
    (['--config=configs/digits.py'], '--model, --classes and --image-size: with --config set'),
    (['--config.seed=1'], '--config.seed=1 sets a field of --config: name its file'),
  ],
)
def test_bad_input_is_one_line(capsys, flags, message):
  assert main([*FLAGS, *flags]) == 2
  text = capsys.readouterr()
  assert message in text.err
  assert text.err.count('\n') == 1
  assert not text.out


@pytest.mark.long
def test_the_step_of_an_experiment_has_its_optimizer(capsys):
  flags = ('--what=train', '--batch=32', '--rounds=1', '--steps=1', '--peak=0.5', '--json=-')
  argv = ('bench', '--config=configs/digits.py', '--config.optimizer.sam_rho=0.1')
  assert main([*argv, '--config.model.num_blocks=1', *flags]) == 0
  row = json.loads(capsys.readouterr().out)['parts']['train']
  check_program(row, 6, models.config_from(configs.run_config(**{'model.num_blocks': 1}).model))


def test_the_input_of_an_experiment_is_measured_with_threads_and_workers(
  capsys, monkeypatch, tmp_path
):
  monkeypatch.setattr(input_rates, '_ROUND_SECONDS', 0.01)
  monkeypatch.setattr(input_rates, 'cores', lambda: 1)
  file = tmp_path / 'bench.json'
  argv = ('bench', '--config=configs/digits.py', '--config.data.randaugment_layers=1')
  flags = ('--what=input', '--batch=8', '--rounds=2', f'--json={file}')
  assert main([*argv, *flags]) == 0
  assert '\ninput ' in capsys.readouterr().out
  row = json.loads(file.read_text())['parts']['input']
  assert row['images'] == row['recipe']['name'] == 'digits'
  assert (row['recipe']['image_size'], row['recipe']['randaugment_layers']) == (16, 1)
  counts = [(one['workers'], one['threads']) for one in row['scaling']]
  assert counts == [(0, 1), (1, 1)]
  alone, worker = row['scaling']
  assert alone['feeding_seconds_per_image'] is None
  # A worker's own clock counts hundredths of a second: of a short round it may see nothing.
  assert 0 < worker['feeding_seconds_per_image'] <= worker['cpu_seconds_per_image']
  assert row['cpu_seconds_per_image'] == worker['cpu_seconds_per_image']
  assert (row['workers'], row['threads']) == (0, 0)  # what the config says for tiny images
  assert min(row['images_per_second'], row['evaluation_images_per_second']) > 0
  rate = host_input.measured(str(file), configs.run_config('configs/digits.py').data, 16)
  assert rate.cpu_seconds == row['cpu_seconds_per_image']  # plan reads the file


def test_a_part_whose_packages_are_missing_is_left_out(capsys, monkeypatch):
  is_installed = suite._is_installed
  monkeypatch.setattr(suite, '_is_installed', lambda name: name != 'cv2' and is_installed(name))
  assert main([*FLAGS, '--what=input']) == 2
  assert 'input is not measured: it needs cv2' in capsys.readouterr().err
  assert main([*FLAGS, '--what=evaluate,input', '--batch=8']) == 0
  output = capsys.readouterr()
  assert 'input is not measured: it needs cv2' in output.err
  assert 'noise in memory' in output.out


def test_from_python_a_benchmark_returns_its_report():
  calls = []
  settings = BenchSettings(
    dataclasses.replace(TINY, image_size=32, num_classes=10),
    parts=('cka',),
    batch_size=8,
    rounds=1,
    steps_per_round=1,
    mesh=meshes.make_mesh(devices=jax.devices()[:2]),
  )
  report = suite.run(settings, lambda report, part: calls.append((part, list(report['parts']))))
  assert calls == [(None, []), ('cka', ['cka'])]
  assert (report['devices'], report['dtype']) == (2, 'float32')
  row = report['parts']['cka']
  assert row['images_per_second'] == pytest.approx(2 * row['images_per_second_per_device'])
