"""`mixer-jax cka` against NumPy on the features, `mixer-jax identify`, and what they write."""

import json

import jax
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.data import pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.data.data_config import evaluation_only
from tests.helpers import train_runs


def unbiased(x: np.ndarray, y: np.ndarray) -> float:
  """HSIC_1 of one batch, in float64."""
  n, grams = len(x), []
  for rows in (x, y):
    gram = rows @ rows.T
    np.fill_diagonal(gram, 0)
    grams.append(gram)
  k, m = grams
  ones = np.ones(n)
  trace = np.trace(k @ m)
  sums = ones @ k @ ones * (ones @ m @ ones) / ((n - 1) * (n - 2))
  return (trace + sums - 2 / (n - 2) * (ones @ k @ m @ ones)) / (n * (n - 3))


def test_the_file_holds_what_numpy_computes(trained, digits_dir, tmp_path, capsys):
  out = tmp_path / 'cka'
  flags = ('--config.eval_batch_size=120', '--layers=stem,block_*', f'--output={out}')
  assert main(['cka', f'--checkpoint={trained}', *flags]) == 0
  assert 'standard error over 3 batches' in capsys.readouterr().out
  config, params = mixer_jax.load(trained)
  source = open_source('digits', 'test', str(digits_dir))
  reading = evaluation_only('digits', recipe='vit-jax', crop_fraction=0.875, threads=0, prefetch=0)
  names, sums = ['stem', 'block_0', 'block_1'], np.zeros((3, 3))
  for batch in pipeline.eval_batches(source, reading, image_size=16, batch_size=120):
    features = mixer_jax.features(config, params, np.float32(batch['image']) / 127.5 - 1)
    rows = [np.asarray(features[name], np.float64).reshape(120, -1) for name in names]
    rows = [row - row.mean(0) for row in rows]
    sums += np.array([[unbiased(x, y) for y in rows] for x in rows])
  wanted = sums / np.sqrt(np.outer(np.diag(sums), np.diag(sums)))
  with np.load(f'{out}.npz') as found:
    assert found['names_x'].tolist() == found['names_y'].tolist() == names
    np.testing.assert_allclose(found['cka'], wanted, atol=1e-5)
    assert found['images'] == 360
    assert (found['standard_error'] < 0.2).all()
  with Image.open(f'{out}.png') as image:
    assert min(image.size) > 400


@pytest.fixture(scope='module')
def other(tmp_path_factory, digits_dir):
  """A run of another seed, evaluated in other batches."""
  workdir = tmp_path_factory.mktemp('other') / 'run'
  flags = ('--config.model.num_blocks=2', '--config.seed=1', '--config.eval_batch_size=72')
  assert train_runs.train(workdir, digits_dir, *flags) == 0
  return workdir


def test_blocks_are_identified_in_another_checkpoint(trained, other, tmp_path, capsys):
  out = tmp_path / 'identify'
  argv = ['identify', f'--checkpoint={trained}', f'--other={other}', f'--output={out}', '--json=-']
  assert main(argv) == 0
  printed = capsys.readouterr()
  report = json.loads(printed.out)
  assert f'{report["identified"]["accuracy"]:.1f} % of the layers identified' in printed.err
  assert report['layers'] == ['block_0', 'block_1']
  assert (report['images'], report['identified']['chance']) == (360, 50)
  with np.load(f'{out}.npz') as found:
    matrix = found['cka']
    np.testing.assert_allclose(matrix, report['cka'])
    assert found['nearest'].tolist() == report['identified']['nearest'] == matrix.argmax(1).tolist()
    right = [100 * np.mean(matrix.argmax(axis) == [0, 1]) for axis in (1, 0)]
    assert found['accuracy'].tolist() == right
    assert found['batches'] == 6  # of the first checkpoint's 64 images, for both
  with Image.open(f'{out}.png') as image:
    assert min(image.size) > 400


def on_digits(data_dir) -> tuple[str, ...]:
  """Weights files do not contain what they were trained on."""
  return ('--config=configs/digits.py', f'--config.data.data_dir={data_dir}')


def test_layers_that_are_not_finite_are_named_with_their_checkpoint(
  trained, digits_dir, tmp_path, capsys
):
  config, params = mixer_jax.load(trained)
  params['MixerBlock_1']['channel_mixing']['Dense_1']['kernel'] *= np.float32(1e30)  # overflows
  mixer_jax.save(tmp_path / 'bad.npz', config, params)
  argv = ['identify', f'--checkpoint={trained}', f'--other={tmp_path / "bad.npz"}']
  assert main([*argv, f'--output={tmp_path / "x"}', *on_digits(digits_dir)]) == 2
  error = capsys.readouterr().err
  assert f'features of block_1 of {tmp_path / "bad.npz"} are not finite' in error
  assert 'in batch 0' in error
  assert [path.name for path in tmp_path.iterdir()] == ['bad.npz']


@pytest.mark.long
def test_two_models_of_different_sizes(trained, digits_dir, tmp_path):
  other = tmp_path / 'other'
  flags = ('--config.model.num_blocks=1', '--config.model.hidden_dim=24', '--config.seed=1')
  assert train_runs.train(other, digits_dir, *flags, '--config.model.image_size=32') == 0
  argv = ['cka', f'--checkpoint={trained}', f'--other={other}', f'--output={tmp_path / "two"}']
  assert main([*argv, '--kernel=rbf', '--bandwidth=0.5', '--features=tokens']) == 0
  with np.load(f'{tmp_path / "two"}.npz') as found:
    assert found['cka'].shape == (4, 3)
    assert found['checkpoints'].tolist() == [str(trained), str(other)]
    assert ((found['cka'] > -0.2) & (found['cka'] < 1)).all()
    assert 'bandwidth 0.5' in str(found['method'])


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--layers=blok_*'], "no layer matches 'blok_*': the nearest are block_*"),
    (['--kernel=rbf', '--bandwidth=1', '--sigma=1'], "'rbf' takes one of the two"),
    (['--bandwidth=0.5'], "'linear' none"),
    (
      ['--config.data.eval_split=test[:11]', '--config.eval_batch_size=8'],
      '11 images in batches of 8 leave 3 for the last one',
    ),
    (['--output=/nowhere/x'], 'no folder for --output'),
    (['--other=nosuch'], 'no checkpoint nosuch'),
  ],
)
def test_bad_input_is_one_line(trained, flags, message, capsys, tmp_path):
  out = [] if '--output' in flags[0] else [f'--output={tmp_path / "out"}']
  assert main(['cka', f'--checkpoint={trained}', *out, *flags]) == 2
  assert message in capsys.readouterr().err
  assert list(tmp_path.iterdir()) == []


def test_models_of_other_depths_cannot_be_identified(trained, digits_dir, tmp_path, capsys):
  small = mixer_jax.MixerConfig(4, 1, 8, 4, 8, image_size=16, num_classes=10)
  mixer_jax.save(tmp_path / 'small.npz', small, mixer_jax.init(small, jax.random.key(0)))
  argv = ['identify', f'--checkpoint={trained}', f'--output={tmp_path / "x"}']
  assert main([*argv, f'--other={tmp_path / "small.npz"}', *on_digits(digits_dir)]) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert f'{trained} has 2 such layers and {tmp_path / "small.npz"} 1' in line
  assert main(argv) == 2
  assert 'required: --other' in capsys.readouterr().err
  assert [path.name for path in tmp_path.iterdir()] == ['small.npz']


def test_a_weights_file_is_compared_on_the_images_of_the_run(trained, tmp_path, capsys):
  weights, out = tmp_path / 'run.npz', tmp_path / 'both'
  assert main(['convert', str(trained), str(weights)]) == 0
  argv = ['cka', f'--checkpoint={trained}', f'--other={weights}', '--layers=block_*']
  assert main([*argv, '--recipe=vit-jax', f'--output={out}']) == 0
  with np.load(f'{out}.npz') as found:
    np.testing.assert_allclose(np.diag(found['cka']), 1, atol=1e-5)
    assert found['checkpoints'].tolist() == [str(trained), str(weights)]
