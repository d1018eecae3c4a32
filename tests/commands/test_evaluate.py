"""`mixer-jax evaluate`, `predict` and `models`: figures, files and bad input."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.data import preprocess
from mixer_jax.data.source import open_source
from tests import reference
from tests.commands import runs


@pytest.fixture(scope='module')
def trained(tmp_path_factory, digits_dir):
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  assert runs.train(workdir, digits_dir, '--config.total_steps=60') == 0
  return workdir


def test_evaluation_agrees_with_numpy(trained, digits_dir, tmp_path, capsys):
  capsys.readouterr()
  json_file = tmp_path / 'figures.json'
  assert main(['evaluate', f'--checkpoint={trained}', f'--json={json_file}']) == 0
  line = capsys.readouterr().out
  figures = json.loads(json_file.read_text())
  config, params = mixer_jax.load(trained)
  source = open_source('digits', 'test', str(digits_dir))
  records = [source[i] for i in range(360)]
  pixels = np.stack(
    [preprocess.eval_image(preprocess.decode(r['image']), 16, 'resmall', 1.0) for r in records]
  )
  logits = reference.forward(config, params, pixels / 127.5 - 1)
  top1 = 100 * np.mean(logits.argmax(1) == np.array([record['label'] for record in records]))
  assert figures['top1'] == pytest.approx(top1)
  assert (figures['examples'], figures['undecodable'], figures['step']) == (360, 0, 60)
  assert figures['data'] == 'digits/test'
  assert figures['images_per_second'] > 0
  assert line.startswith(f'top-1 {top1:.2f} %  top-5 ')


def test_a_step_a_split_and_a_batch_size_may_be_chosen(trained, digits_dir, capsys):
  argv = [
    'evaluate', f'--checkpoint={trained}/checkpoints/30', '--config=configs/digits.py',
    '--config.data.eval_split=test[:50]', '--config.eval_batch_size=16', '--json=-',
    f'--config.data.data_dir={digits_dir}',
  ]  # fmt: skip
  capsys.readouterr()
  assert main([argument.replace('/30', '/60') for argument in argv]) == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert (figures['examples'], figures['step']) == (50, 60)


def test_a_step_may_lie_anywhere_and_be_computed_otherwise(trained, tmp_path, capsys, monkeypatch):
  shutil.copytree(trained / 'checkpoints' / '60', tmp_path / 'best')
  monkeypatch.chdir(tmp_path)
  tops = {}
  for more in ([], ['--config.model.dtype=bfloat16'], ['--config.model.gelu=erf']):
    capsys.readouterr()
    assert main(['evaluate', '--checkpoint=best', '--json=-', *more]) == 0
    tops[tuple(more)] = json.loads(capsys.readouterr().out)['loss']
  assert len(set(tops.values())) == 3
  assert max(tops.values()) - min(tops.values()) < 0.05
  assert main(['evaluate', '--checkpoint=best', '--config.model.image_size=32']) == 2
  assert "config.model.image_size is the checkpoint's" in capsys.readouterr().err


def test_predict_names_the_classes_of_each_image(trained, digits_dir, tmp_path, capsys):
  record = open_source('digits', 'test', str(digits_dir))[3]
  path = tmp_path / 'digit.png'
  path.write_bytes(record['image'])
  capsys.readouterr()
  assert main(['predict', f'--checkpoint={trained}', str(path), str(path)]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert lines[0] == lines[6] == str(path)
  shares = [float(line.split('%')[0]) for line in lines[1:6]]
  names = [line.split('%')[1].strip() for line in lines[1:6]]
  config, params = mixer_jax.load(trained)
  image = preprocess.eval_image(preprocess.decode(record['image']), 16, 'resmall', 1.0)
  logits = reference.forward(config, params, image[None] / 127.5 - 1)[0]
  wanted = np.exp(logits) / np.exp(logits).sum()
  assert names == [str(i) for i in np.argsort(-wanted)[:5]]
  np.testing.assert_allclose(shares, 100 * np.sort(wanted)[::-1][:5], atol=0.006)


def test_predict_goes_on_behind_an_image_that_does_not_decode(trained, tmp_path, capsys):
  (tmp_path / 'bad.png').write_bytes(b'no image')
  Image.new('L', (30, 20)).save(tmp_path / 'good.png')
  argv = [str(tmp_path / name) for name in ('none.png', 'bad.png', 'good.png')]
  capsys.readouterr()
  assert main(['predict', f'--checkpoint={trained}', *argv]) == 2
  captured = capsys.readouterr()
  assert captured.out.splitlines()[0] == argv[2]
  assert f'{argv[0]}: No such file or directory; {argv[1]} does not decode' in captured.err


def test_predict_from_a_published_file_has_numbered_classes(tmp_path, capsys):
  Image.new('RGB', (40, 40)).save(tmp_path / 'a.jpg')
  assert (
    main(['predict', f'--checkpoint={reference.DATA}/mixer_tiny.npz', f'{tmp_path}/a.jpg']) == 0
  )
  assert '%  class ' in capsys.readouterr().out


def test_models_prints_table_1(capsys):
  assert main(['models']) == 0
  lines = capsys.readouterr().out.splitlines()
  (row,) = [line.split() for line in lines if line.split()[:1] == ['L/16']]
  assert row[1:] == [
    '24',
    '16',
    '196',
    '1024',
    '512',
    '4096',
    '208,196,168',
    '207,171,168',
    '89.10',
  ]


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['evaluate'], 'the following arguments are required: --checkpoint'),
    (['evaluate', '--checkpoint=none'], 'no checkpoint none'),
    (
      ['evaluate', f'--checkpoint={reference.DATA}/mixer_tiny.npz'],
      'has no config in it: name one',
    ),
    (['evaluate', '--checkpoint=none', '--json=none/a.json'], 'no folder for --json=none/a.json'),
    (['evaluate', '--checkpoint=none', '--config=configs/digits.py'], 'no checkpoint none'),
    (
      ['evaluate', f'--checkpoint={reference.DATA}/mixer_tiny.npz', '--config=configs/digits.py'],
      'the model has 7 classes and digits/test 10',
    ),
    (['predict', '--checkpoint=none'], 'the following arguments are required: IMAGE'),
    (['predict', '--checkpoint=none.npz', 'a.png'], 'no weights file none.npz'),
    (['models', '--all'], 'unknown argument --all'),
    (['fly'], "no command 'fly': there are train, evaluate, predict, models"),
  ],
)
def test_bad_input_is_one_line(argv, message, digits_dir, capsys):
  if '--config=configs/digits.py' in argv:
    argv = [*argv, f'--config.data.data_dir={digits_dir}']
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error


def test_help_lists_the_commands(capsys):
  assert main(['--help']) == 0
  text = capsys.readouterr().out
  assert all(name in text for name in ('train', 'evaluate', 'predict', 'models'))
  assert main([]) == 2
