"""`mixer-jax fewshot` and `probe` on a small run: figures, files, bad input."""

import json

import pytest

from mixer_jax.__main__ import main
from mixer_jax.runlog.metrics import read_metrics


def test_few_shot_accuracy_grows_with_the_shots(trained, capsys):
  argv = ['fewshot', f'--checkpoint={trained}', '--shots=1,25', '--seeds=2', '--json=-']
  assert main(argv) == 0
  out, err = capsys.readouterr()
  figures = json.loads(out)
  assert 15 < figures['1-shot'] < figures['25-shot'] < 100  # chance is 10
  assert figures['25-shot_deviation'] > 0
  assert '25 images per class:' in err
  assert 'of 360 images of digits/test, learned from digits/train' in err
  # The run measured the same while it trained, in every other evaluation.
  (row,) = [row for row in read_metrics(trained) if row.get('event') == 'fewshot']
  assert (row['step'], row['data']) == (6, 'digits/test')
  assert {name: row[name] for name in figures if '-shot' in name} == pytest.approx(
    {name: value for name, value in figures.items() if '-shot' in name}
  )


def test_probe_reports_every_block(trained, tmp_path, capsys):
  file = tmp_path / 'probe.json'
  argv = ['probe', f'--checkpoint={trained}', '--iterations=50', f'--json={file}']
  assert main(argv) == 0
  rows = json.loads(file.read_text())['layers']
  assert [row['layer'] for row in rows] == ['block_0', 'block_1', 'pre_logits']
  assert all(40 < row['top1'] <= 100 for row in rows)
  assert len(capsys.readouterr().out.splitlines()) == 4


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['fewshot', '--shots=1,x'], '--shots=1,x: whole numbers'),
    (['fewshot', '--shots=0'], 'shots must be positive'),
    (['fewshot', '--shots=1000'], 'class'),
    (['fewshot', '--l2=0'], 'l2 must be'),
    (['probe', '--iterations=0'], 'iterations must be'),
    (['probe', '--json=/nowhere/x'], 'no folder for --json'),
  ],
)
def test_bad_input_is_one_line(trained, argv, message, capsys):
  assert main([*argv, f'--checkpoint={trained}']) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
