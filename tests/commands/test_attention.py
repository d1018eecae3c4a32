"""`mixer-jax attention`: its files, what it prints, and bad input."""

import json

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.data import pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.data.data_config import evaluation_only
from tests.docs.file_keys import assert_documented
from tests.helpers.factories import random_params, tiny_mixer, tiny_vit


def on_digits(data_dir) -> tuple[str, ...]:
  """Weights files do not contain what they were trained on."""
  return ('--config=configs/digits.py', f'--config.data.data_dir={data_dir}')


def numpy_figures(config, params, images) -> tuple[np.ndarray, np.ndarray]:
  """Attention distance, pixels, and share of the class token of each image, block and head."""
  features = models.features(config, params, np.float32(images) / 127.5 - 1)
  side = config.image_size // config.patch_size
  place = config.patch_size * np.indices((side, side)).reshape(2, -1)
  apart = np.sqrt(((place[:, :, None] - place[:, None]) ** 2).sum(0))
  distances, shares = [], []
  for block in range(config.num_blocks):
    query, key = (
      np.asarray(features[f'block_{block}/attention/{name}'], np.float64).swapaxes(1, 2)
      for name in ('query', 'key')
    )
    weights = np.exp(query @ key.swapaxes(2, 3) / np.sqrt(query.shape[-1]))
    weights /= weights.sum(-1, keepdims=True)
    patches = weights[:, :, 1:, 1:]
    distances.append(((patches * apart).sum(-1) / patches.sum(-1)).mean(-1))
    shares.append(weights[:, :, 1:, 0].mean(-1))
  return np.stack(distances, 1), np.stack(shares, 1)


def test_the_files_hold_what_numpy_computes(digits_dir, tmp_path, capsys):
  config = tiny_vit()
  params = random_params(config, scale=0.6)
  mixer_jax.save(tmp_path / 'vit.npz', config, params)
  out, file = tmp_path / 'out', tmp_path / 'out.json'
  argv = ['attention', f'--checkpoint={tmp_path / "vit.npz"}', f'--output={out}']
  more = ('--images=50', '--config.eval_batch_size=24', f'--json={file}')
  assert main([*argv, *more, *on_digits(digits_dir)]) == 0
  source = open_source('digits', 'test', str(digits_dir))
  reading = evaluation_only('digits', recipe='vit-jax', crop_fraction=0.875, threads=0, prefetch=0)
  (batch,) = pipeline.eval_batches(source, reading, image_size=16, batch_size=360)
  chosen = [i * 360 // 50 for i in range(50)]
  assert batch['index'].tolist() == list(range(360))
  distances, shares = numpy_figures(config, params, batch['image'][chosen])
  figures = json.loads(file.read_text())
  assert_documented('attention --json', figures)
  assert_documented('attention.npz', tmp_path / 'out.npz')
  np.testing.assert_allclose(figures['distance'], distances.mean(0), rtol=1e-4)
  error = distances.std(0, ddof=1) / np.sqrt(50)
  np.testing.assert_allclose(figures['standard_error'], error, rtol=1e-3)
  np.testing.assert_allclose(figures['class_token_share'], shares.mean(0), rtol=1e-4)
  assert np.ptp(figures['distance']) > 0.5  # heads differ
  assert (figures['images'], figures['image_size']) == (50, 16)
  assert figures['data'] == 'digits/test'
  with np.load(f'{out}.npz') as found:
    np.testing.assert_array_equal(found['distance'], figures['distance'])
    assert found['class_token_map'].shape == (2, 2, 4, 4)
  printed = capsys.readouterr().out.splitlines()
  head = int(np.argmin(figures['distance'][1]))
  assert printed[3].split()[:4] == [
    '1', f'{np.mean(figures["distance"][1]):.2f}', f'{min(figures["distance"][1]):.2f}', str(head),
  ]  # fmt: skip
  for name in ('distance', 'class_token'):
    with Image.open(f'{out}_{name}.png') as image:
      assert min(image.size) > 250


@pytest.mark.long
def test_without_a_class_token_and_with_all_images(digits_dir, tmp_path):
  config = tiny_vit(pooling='gap')
  mixer_jax.save(tmp_path / 'vit.npz', config, random_params(config))
  few = mixer_jax.load_for_evaluation(
    tmp_path / 'vit.npz',
    mixer_jax.load_config('configs/digits.py', {'data.data_dir': str(digits_dir)}),
    overrides={'data.eval_split': 'test[:9]'},
  )
  report = mixer_jax.measure_attention(few)
  assert (report.images, report.data) == (9, 'digits/test[:9]')
  assert report.class_token_share is report.class_token_map is None
  assert list(report.pictures()) == ['distance']
  assert 'class token' not in report.summary()
  assert report.to_json()['class_token_share'] is None
  one = mixer_jax.measure_attention(few, images=1)
  assert one.to_json()['standard_error'] == [[None, None]] * 2


@pytest.mark.parametrize(
  ('flags', 'message'),
  [
    (['--images=0'], 'images=0: a number of images, at least 1'),
    (['--output=/nowhere/x'], 'no folder for --output'),
    (['--json=FOLDER'], 'is a folder'),
    (['--checkpoint=mixer.npz'], 'a Mixer has no attention: mixer-jax weights draws'),
    (['--checkpoint=bad.npz'], 'the attention of block 1 of '),
  ],
)
def test_bad_input_is_one_line(flags, message, digits_dir, tmp_path, monkeypatch, capsys):
  config = tiny_vit()
  params = random_params(config)
  mixer_jax.save(tmp_path / 'vit.npz', config, params)
  params['Transformer']['encoderblock_1']['LayerNorm_0']['scale'][:] = 1e30  # overflows
  mixer_jax.save(tmp_path / 'bad.npz', config, params)
  mixer_jax.save(tmp_path / 'mixer.npz', tiny_mixer(), random_params(tiny_mixer()))
  before = sorted(tmp_path.iterdir())
  argv = ['attention', *on_digits(digits_dir), f'--output={tmp_path / "out"}', '--images=8']
  argv += [f'--checkpoint={tmp_path / "vit.npz"}']
  flags = [flag.replace('FOLDER', str(tmp_path)) for flag in flags]
  flags = [flag.replace('checkpoint=', f'checkpoint={tmp_path}/') for flag in flags]
  assert main([*argv, *flags]) == 2
  assert message in capsys.readouterr().err.splitlines()[-1]
  assert sorted(tmp_path.iterdir()) == before
