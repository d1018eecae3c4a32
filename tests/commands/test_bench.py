"""`mixer-jax bench` on a model that takes no time, and every way to use it wrongly."""

import json
import math

import jax
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.bench import data_input, measure, suite

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


def check_program(row: dict, passes: int) -> None:
  """The numbers of one program, each beside another that it follows from."""
  config = mixer_jax.MixerConfig(16, 1, 16, 8, 16, image_size=32, num_classes=10)
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


def test_a_program_and_an_evaluation_are_measured_and_told(capsys, tmp_path):
  file = tmp_path / 'bench.json'
  argv = (*FLAGS, '--what=forward,evaluate', '--batch=32', '--peak=0.5', f'--json={file}')
  assert main([*argv]) == 0
  text = capsys.readouterr().out
  report = json.loads(file.read_text())
  assert (report['devices'], report['device'], report['dtype']) == (8, 'cpu', 'float32')
  assert report['peak_flops_per_second'] == 0.5e12
  assert list(report['parts']) == ['forward', 'evaluate']
  check_program(report['parts']['forward'], 1)
  assert report['parts']['evaluate']['images'] == data_input.PHOTOGRAPHS
  evaluated = report['parts']['evaluate']
  assert 0 < evaluated['share_of_slower'] < evaluated['share_of_both'] < math.inf
  for part in ('MFU', 'of a multiply', 'GFLOP an image', 'from the cache', '\nevaluate '):
    assert part in text


@pytest.mark.long
def test_all_other_parts_are_measured_and_told(capsys):
  parts = 'train,loop,input,checkpoint,cka'
  assert main([*FLAGS, f'--what={parts}', '--batch=32', '--peak=0.5', '--json=-']) == 0
  told = capsys.readouterr()
  report = json.loads(told.out)
  assert list(report['parts']) == parts.split(',')
  check_program(report['parts']['train'], 3)
  check_program(report['parts']['cka'], 1)
  assert 0 < report['parts']['loop']['share_with_saves'] < math.inf
  state = report['parts']['checkpoint']
  params = sum(4 * leaf.size for leaf in jax.tree.leaves(models.shapes(TINY)))
  assert 0 < state['bytes'] < 4 * params
  assert 0 < state['blocked_seconds'] <= state['written_seconds']
  for part in report['parts']:
    assert f'\n{part} ' in told.err


@pytest.mark.long
def test_the_fastest_batch_is_looked_for_and_a_peak_that_is_not_known_is_said(capsys):
  assert main([*FLAGS, '--what=forward', '--batch=auto', '--json=-']) == 0
  told = capsys.readouterr()
  report = json.loads(told.out)
  row = report['parts']['forward']
  assert report['peak_flops_per_second'] is row['mfu'] is None
  assert row['share_of_multiply'] > 0
  assert 'the peak of cpu in float32 is not known' in told.err
  assert row['batch_size'] % 8 == 0
  assert f'in batches of {2 * row["batch_size"]}' in told.err  # it was compared with more


def test_of_a_batch_that_does_not_fit_the_largest_that_does_is_said(capsys, monkeypatch):
  need = measure.program_bytes
  limit = 8 * 400_000
  monkeypatch.setattr(measure, 'free_memory', lambda: limit)
  seen = {}

  def program_bytes(program):
    rows = program.in_avals[0][1]['image'].shape[0]
    seen[rows] = need(program) <= limit / 8
    return need(program)

  monkeypatch.setattr(measure, 'program_bytes', program_bytes)
  assert main([*FLAGS, '--what=forward', '--batch=8192']) == 3
  (line,) = [line for line in capsys.readouterr().err.splitlines() if '--batch=' in line]
  found = int(line.partition('--batch=')[2].rstrip(')'))
  assert seen[found]
  assert not any(fits for rows, fits in seen.items() if rows > found)
  assert f'of {found:,} do' in line


@pytest.mark.parametrize(
  ('flags', 'told'),
  [
    (['--model=B/17'], "no model 'B/17', did you mean B/16"),
    (['--what=forward,flight'], "'flight' is none of forward, train"),
    (['--what='], 'what is empty'),
    (['--batch=-1'], '--batch=-1: auto, or a whole number'),
    (['--batch=12'], '--batch 12 cannot be shared evenly by 8 devices: take 16'),
    (['--dtype=int8'], 'model.dtype must be one of'),
    (['--image-size=33'], 'model.image_size 33 is not a multiple'),
    (['--classes=0'], 'model.num_classes must be a positive'),
    (['--peak=0'], '--peak=0.0: TFLOP/s'),
    (['--rounds=0'], '--rounds=0: a whole number in 1..1000'),
    (['--json=/nowhere/bench.json'], 'no folder for --json'),
    (['--workdir=/nowhere', '--what=checkpoint'], '--workdir=/nowhere is no folder'),
    (['--config=configs/digits.py'], 'unknown argument --config'),
  ],
)
def test_bad_input_is_told_in_one_line(capsys, flags, told):
  assert main([*FLAGS, *flags]) == 2
  text = capsys.readouterr()
  assert told in text.err
  assert text.err.count('\n') == 1
  assert not text.out


def test_what_is_not_installed_is_said(capsys, monkeypatch):
  there = suite._is_installed
  monkeypatch.setattr(suite, '_is_installed', lambda name: name != 'grain' and there(name))
  assert main([*FLAGS, '--what=input']) == 2
  assert 'input is not measured: it needs grain' in capsys.readouterr().err
  assert main([*FLAGS, '--what=evaluate,input', '--batch=8']) == 0
  told = capsys.readouterr()
  assert 'input is not measured: it needs grain' in told.err
  assert 'noise in memory' in told.out
