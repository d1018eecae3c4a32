"""`mixer-jax evaluate`: figures, recipes, published numbers, files and bad input."""

import csv
import dataclasses
import io
import json
import pathlib
import shutil

import numpy as np
import pytest

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.checkpoints import published as table
from mixer_jax.data import recipes
from mixer_jax.data.catalog import open_source
from mixer_jax.models import parameters
from mixer_jax.runs.evaluation import published_figures
from mixer_jax.storage import RETRY_SETTING
from tests.docs.file_keys import assert_documented
from tests.helpers import reference, train_runs
from tests.helpers.made import prepare
from tests.helpers.photos import encoded, photo

TINY = f'{reference.DATA}/mixer_tiny.npz'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """Photographs of seven classes, as many as the small reference Mixer has."""
  root = tmp_path_factory.mktemp('photos')
  for label in range(7):
    (root / f'class{label}').mkdir()
    for i in range(5):
      image = photo(40 + 9 * label, 50 + 3 * i, i % 2)
      (root / f'class{label}' / f'{i}.jpg').write_bytes(encoded(np.roll(image, 30 * label, 2)))
  return root


def figures_of(*argv, capsys) -> dict:
  capsys.readouterr()
  assert main(['evaluate', *map(str, argv), '--json=-']) == 0
  return json.loads(capsys.readouterr().out)


def test_evaluation_agrees_with_numpy(trained, digits_dir, tmp_path, capsys):
  capsys.readouterr()
  json_file = tmp_path / 'figures.json'
  assert main(['evaluate', f'--checkpoint={trained}', f'--json={json_file}']) == 0
  line = capsys.readouterr().out
  figures = json.loads(json_file.read_text())
  assert_documented('evaluate --json', figures)
  config, params = mixer_jax.load(trained)
  source = open_source('digits', 'test', str(digits_dir))
  records = [source[i] for i in range(360)]
  pixels = np.stack([recipes.eval_image(r['image'], 16, 'vit-jax', 1.0) for r in records])
  logits = reference.forward(config, params, pixels / 127.5 - 1)
  top1 = 100 * np.mean(logits.argmax(1) == np.array([record['label'] for record in records]))
  assert figures['top1'] == pytest.approx(top1)
  assert (figures['examples'], figures['undecodable'], figures['step']) == (360, 0, 6)
  assert figures['data'] == 'digits/test'
  assert figures['recipe'].startswith('vit-jax: ')
  assert figures['images_per_second'] > 0
  assert line.startswith(f'top-1 {top1:.2f} %  top-5 ')


def test_a_step_a_split_and_a_batch_size_may_be_chosen(trained, digits_dir, capsys):
  figures = figures_of(
    f'--checkpoint={trained}/checkpoints/6',
    '--config=configs/digits.py',
    '--config.data.eval_split=test[:50]',
    '--config.eval_batch_size=16',
    f'--config.data.data_dir={digits_dir}',
    capsys=capsys,
  )
  assert (figures['examples'], figures['step']) == (50, 6)


def test_a_step_may_be_anywhere_and_its_arithmetic_changed(trained, tmp_path, capsys, monkeypatch):
  shutil.copytree(trained / 'checkpoints' / '6', tmp_path / 'best')
  monkeypatch.chdir(tmp_path)
  tops = {}
  for more in ([], ['--config.model.dtype=bfloat16'], ['--config.model.gelu=erf']):
    tops[tuple(more)] = figures_of('--checkpoint=best', *more, capsys=capsys)['loss']
  assert len(set(tops.values())) == 3
  assert max(tops.values()) - min(tops.values()) < 0.05
  assert main(['evaluate', '--checkpoint=best', '--config.model.image_size=32']) == 2
  assert "config.model.image_size is the checkpoint's" in capsys.readouterr().err


def test_the_recipe_is_the_checkpoints_or_the_one_that_is_named(trained, digits_dir, capsys):
  argv = (
    f'--checkpoint={trained}',
    '--config=configs/evaluate.py:digits',
    f'--config.data.data_dir={digits_dir}',
  )
  own = figures_of(*argv, capsys=capsys)
  assert own['eval_recipe'] == 'vit-jax'
  other = figures_of(*argv, '--config.data.eval_recipe=timm', capsys=capsys)
  assert other['recipe'].startswith('timm: shorter side to 18 (Pillow, bicubic')
  assert other['loss'] != own['loss']


def test_a_recipe_that_is_assumed_is_logged_once_and_a_named_one_is_not(folder, capsys):
  argv = ['evaluate', f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{folder}']
  for named, count in ((), 1), (('--recipe=vit-jax',), 0):
    assert main([*argv, *named]) == 0
    assert capsys.readouterr().err.count('does not contain its recipe') == count


@pytest.mark.parametrize('recipe', recipes.RECIPES)
def test_a_folder_with_a_folder_for_each_class(folder, recipe, capsys):
  figures = figures_of(
    f'--checkpoint={TINY}',
    f'--config=configs/evaluate.py:folder:{folder}',
    f'--config.data.eval_recipe={recipe}',
    capsys=capsys,
  )
  config, params, _ = reference.golden()
  source = open_source(f'folder:{folder}', '')
  records = [source[i] for i in range(len(source))]
  levels = np.stack([recipes.eval_image(r['image'], 32, recipe, 0.875) for r in records])
  logits = reference.forward(config, params, levels / 127.5 - 1)
  labels = np.array([record['label'] for record in records])
  hits = np.argsort(-logits, axis=1) == labels[:, None]
  assert figures['examples'] == 35
  assert figures['top1'] == pytest.approx(100 * hits[:, 0].mean())
  assert figures['top5'] == pytest.approx(100 * hits[:, :5].any(1).mean())
  shares = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  wanted = -np.log(shares[np.arange(35), labels]).mean()
  assert figures['loss'] == pytest.approx(wanted, rel=1e-5)


def test_a_table_of_classes(folder, tmp_path, capsys):
  argv = ['evaluate', f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{folder}']
  capsys.readouterr()
  assert main([*argv, '--per-class=-']) == 0
  printed = capsys.readouterr().out
  rows = list(csv.DictReader(io.StringIO(printed)))
  assert sorted(row['name'] for row in rows) == [f'class{i}' for i in range(7)]
  assert all(row['images'] == '5' for row in rows)
  tops = [float(row['top1']) for row in rows]
  assert tops == sorted(tops)
  assert all(int(row['times']) <= 5 for row in rows)
  assert main([*argv, f'--per-class={tmp_path}/classes.csv']) == 0
  assert (tmp_path / 'classes.csv').read_text() == printed


@pytest.fixture
def published(tmp_path, monkeypatch):
  """A small file in the table, with ImageNet's thousand classes and size."""
  config = mixer_jax.MixerConfig(56, 1, 8, 4, 8, image_size=224, num_classes=1000)
  rng = np.random.default_rng(0)
  params = {n: rng.standard_normal(s) * 0.3 for n, s in models.param_shapes(config).items()}
  (tmp_path / 'mirror' / 'made').mkdir(parents=True)
  mixer_jax.save(tmp_path / 'mirror' / 'made' / 'M.npz', config, parameters.unflatten(params))
  entry = table.Released(
    'made/M', 'https://mixers.invalid/M.npz', config, None, top1=50.0, real=60.0, recipe='timm'
  )
  monkeypatch.setitem(table.released, entry.name, entry)
  monkeypatch.setenv('MIXER_JAX_MIRROR', str(tmp_path / 'mirror'))
  return entry


def imagenet(folder, name: str, records: list[dict]) -> str:
  """The flag of a data_dir in which this data set is prepared, of these records."""
  prepare(name, 'validation', records, folder)
  return f'--config.data.data_dir={folder}'


def test_the_published_figure_is_compared_with_the_measured_one(published, tmp_path, capsys):
  records = [
    {
      'image': photo(60, 80, i % 2),
      'original_label': i,
      'real_label': [[i], [], [3, 4, i]][i % 3],
      'file_name': f'{i}.JPEG',
    }
    for i in range(9)
  ]
  where = imagenet(tmp_path / 'tfds', 'imagenet2012_real', records)
  argv = ['--checkpoint=made/M', '--config=configs/evaluate.py:imagenet2012_real', where]
  figures = figures_of(*argv, capsys=capsys)
  assert figures['published'] == {'top1': 50.0, 'real': 60.0}
  assert figures['real_examples'] == 6
  assert figures['eval_recipe'] == 'timm'
  assert main(['evaluate', *argv]) == 0
  lines = capsys.readouterr().out.splitlines()
  assert 'ReaL ' in lines[0]
  assert lines[1].startswith('by timm: shorter side to 256')
  assert lines[1].endswith('gelu tanh, float32; made/M')
  assert lines[2] == f'published top-1 50.00 %: {figures["top1"] - 50:+.2f} here'
  assert lines[3] == f'published ReaL 60.00 %: {figures["real"] - 60:+.2f} here'
  assert main(['evaluate', *argv, '--recipe=vit-jax']) == 0
  assert 'here, by another recipe than its timm with crop 0.875' in capsys.readouterr().out


def test_part_of_a_split_has_no_published_figure(published, tmp_path, capsys):
  records = [{'image': photo(9, 8), 'label': i, 'file_name': f'{i}.JPEG'} for i in range(5)]
  where = imagenet(tmp_path / 'tfds', 'imagenet2012', records)
  argv = ['--checkpoint=made/M', '--config=configs/evaluate.py:imagenet2012', where]
  assert figures_of(*argv, capsys=capsys)['published'] == {'top1': 50.0}
  part = figures_of(*argv, '--config.data.eval_split=validation[:3]', capsys=capsys)
  assert (part['published'], part['examples']) == ({}, 3)


def test_some_of_imagenets_classes_are_matched_by_their_ids(published, tmp_path, capsys):
  from mixer_jax.data.catalog import class_ids

  ids = class_ids('imagenet2012')
  for name in (ids[500], ids[3]):
    (tmp_path / 'some' / name).mkdir(parents=True)
    (tmp_path / 'some' / name / 'a.jpg').write_bytes(encoded(photo(50, 6)))
  capsys.readouterr()
  argv = ['--checkpoint=made/M', f'--config=configs/evaluate.py:folder:{tmp_path}/some']
  assert main(['evaluate', *argv, '--per-class=-']) == 0
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  names = {row['class']: row['name'] for row in rows}
  assert names == {
    '3': f'{ids[3]} tiger shark, Galeocerdo cuvieri',
    '500': f'{ids[500]} cliff dwelling',
  }
  by_path = [f'--checkpoint={tmp_path}/mirror/made/M.npz', *argv[1:]]
  assert main(['evaluate', *by_path, '--recipe=timm', '--per-class=-']) == 0
  assert list(csv.DictReader(io.StringIO(capsys.readouterr().out))) == rows


def test_the_validation_set_as_a_folder_has_the_published_figure(published, monkeypatch):
  from mixer_jax import checkpoints
  from mixer_jax.data.catalog import class_ids
  from mixer_jax.data.source import Source

  checkpoint = checkpoints.read('made/M')
  ids = class_ids('imagenet2012')
  for count, classes, wanted in (
    (50_000, ids, {'top1': 50.0}),
    (49_999, ids, {}),
    (50_000, ids[::-1], {}),
  ):
    source = Source('folder:x', classes, range(count))
    assert published_figures(checkpoint, source, 224) == wanted
  assert published_figures(checkpoint, Source('folder:x', ids, range(50_000)), 448) == {}


@pytest.mark.parametrize('names', ['25', '0123456', '654321'])
def test_folders_named_by_class_numbers_are_matched_by_them(tmp_path, capsys, names):
  for name in names:
    (tmp_path / name).mkdir()
    (tmp_path / name / 'a.jpg').write_bytes(encoded(photo(50, 6)))
  capsys.readouterr()
  argv = [f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{tmp_path}']
  assert main(['evaluate', *argv, '--per-class=-']) == 0
  rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
  assert {row['class'] for row in rows} == set(names)


def test_other_numbers_are_matched_by_order_with_a_warning(tmp_path, capsys):
  for name in '1234567':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'a.jpg').write_bytes(encoded(photo(50, 6)))
  argv = [f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{tmp_path}']
  assert main(['evaluate', *argv]) == 0
  assert 'matched by order' in capsys.readouterr().err


def test_a_split_without_decodable_images_gives_no_figures(tmp_path, capsys):
  for name in '05':
    (tmp_path / name).mkdir()
    (tmp_path / name / 'a.jpg').write_bytes(b'broken')
  argv = [f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{tmp_path}']
  assert main(['evaluate', *argv, f'--json={tmp_path}/f.json']) == 2
  assert 'none of the 2 images' in capsys.readouterr().err
  assert not (tmp_path / 'f.json').exists()


def test_a_full_disk_is_reported(folder, capsys, monkeypatch):
  monkeypatch.setenv(RETRY_SETTING, '0')
  argv = [f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{folder}']
  assert main(['evaluate', *argv, '--json=/dev/full']) == 74
  assert '/dev/full cannot be written now: No space left' in capsys.readouterr().err
  assert not pathlib.Path('/dev/full').is_file()  # still the device


def test_an_undecodable_image_is_named_counted_and_ignored(folder, tmp_path, capsys):
  shutil.copytree(folder, tmp_path / 'some')
  (tmp_path / 'some' / 'class3' / '2.jpg').write_bytes(b'broken')
  capsys.readouterr()
  argv = [f'--checkpoint={TINY}', f'--config=configs/evaluate.py:folder:{tmp_path}/some']
  assert main(['evaluate', *argv]) == 0
  captured = capsys.readouterr()
  assert '34 images' in captured.out
  assert '1 did not decode' in captured.out
  assert 'class3/2.jpg) does not decode' in captured.err


def test_a_model_gets_pixels_in_its_own_range(folder, monkeypatch, tmp_path, capsys):
  config, params, _ = reference.golden()
  mixer_jax.save(tmp_path / 'M.npz', config, params)
  own = dataclasses.replace(config, gelu='erf', input_range='[0, 1]')
  entry = table.Released('M', 'https://mixers.invalid/M.npz', own, None, 'timm-bilinear')
  monkeypatch.setitem(table.released, 'M', entry)
  monkeypatch.setenv('MIXER_JAX_MIRROR', str(tmp_path))
  monkeypatch.chdir(tmp_path.parent)
  where = f'--config={train_runs.ROOT}/configs/evaluate.py:folder:{folder}'
  named = figures_of('--checkpoint=M', where, capsys=capsys)
  assert named['recipe'].endswith('then to [0, 1]')
  by_hand = figures_of(
    f'--checkpoint={tmp_path}/M.npz',
    where,
    '--config.model.gelu=erf',
    '--config.model.input_range=[0, 1]',
    '--config.data.eval_recipe=timm-bilinear',
    capsys=capsys,
  )
  flags = ['--gelu=erf', '--input-range=[0, 1]', '--recipe=timm-bilinear']
  by_flags = figures_of(f'--checkpoint={tmp_path}/M.npz', where, *flags, capsys=capsys)
  assert named['loss'] == by_hand['loss'] == by_flags['loss']


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['evaluate'], 'the following arguments are required: --checkpoint'),
    (['evaluate', '--checkpoint=none'], 'no checkpoint none'),
    (
      ['evaluate', f'--checkpoint={TINY}'],
      'does not say which data set to evaluate on: name one, as in',
    ),
    (
      ['evaluate', '--checkpoint=imagenet1k/Mixer-B_16'],
      'does not say which data set to evaluate on',
    ),
    (
      ['evaluate', '--checkpoint=sam/Mixer-B_16', '--config=configs/evaluate.py:folder:no'],
      'no folder no:',
    ),
    (['evaluate', '--checkpoint=none', '--json=none/a.json'], 'no folder for --json=none/a.json'),
    (['evaluate', '--checkpoint=none', '--config=configs/digits.py'], 'no checkpoint none'),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/evaluate.py:imagenet'],
      'no TFDS data set ',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/evaluate.py:tests'],
      "data set 'tests': for a folder of images, write folder:tests",
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/digits.py', '--json=tests'],
      '--json=tests is a folder',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/evaluate.py:imagenet2013'],
      'no TFDS data set ',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/evaluate.py'],
      'configs/evaluate.py needs an argument, configs/evaluate.py:DATASET. A checkpoint on a data',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/evaluate.py:folder:none'],
      'no folder none',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--json=-', '--per-class=-'],
      'cannot both go to one place',
    ),
    (
      ['evaluate', f'--checkpoint={TINY}', '--config=configs/digits.py'],
      'the model has 7 classes and digits/test has 10: fine-tune with --config.init_from',
    ),
  ],
)
def test_bad_input_is_one_line(argv, message, digits_dir, capsys):
  if '--config=configs/digits.py' in argv:
    argv = [*argv, f'--config.data.data_dir={digits_dir}']
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
