"""A run is resumed with the data that it began with, wherever they are."""

import gzip
import json
import logging
import os
import shutil

import cv2
import numpy as np
import pytest

from mixer_jax import UserError
from mixer_jax.data.catalog import open_source
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import run_data
from mixer_jax.runs.data_changes import Changes
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.run_data import check_data
from mixer_jax.runs.workdir import check_stored, claimed
from tests.helpers.configs import run_config


@pytest.fixture
def images(tmp_path):
  """A folder of two classes with four images each, all of different sizes."""
  for label in 'ab':
    (tmp_path / 'images' / label).mkdir(parents=True)
    for i in range(4):
      side = 8 + 4 * i + 2 * (label == 'b')
      png = cv2.imencode('.png', np.random.default_rng(i).integers(0, 255, (side, side, 3)))[1]
      (tmp_path / 'images' / label / f'{i}.png').write_bytes(png.tobytes())
  return tmp_path / 'images'


def config_of(folder, **changes):
  fields = {
    'data.name': f'folder:{folder}', 'data.train_split': 'train[:75%]',
    'data.eval_split': 'train[75%:]', 'model.num_classes': 2, 'batch_size': 8,
    'eval_batch_size': 8,
  }  # fmt: skip
  return run_config(**(fields | changes))


def start(workdir, config, *, steps=True) -> None:
  """What a start of a run does before it trains; with steps, it has a state afterwards."""
  known = check_stored(workdir, config)
  experiment = build_experiment(config, known and known['model'])
  with claimed(workdir, config, experiment.model) as stored:
    check_data(workdir, experiment, stored)
  if steps:
    (workdir / 'checkpoints' / '4').mkdir(parents=True, exist_ok=True)


@pytest.fixture
def run(tmp_path, images):
  start(tmp_path / 'run', config_of(images))
  return tmp_path / 'run'


def record(workdir) -> dict:
  return json.loads(gzip.decompress((workdir / 'data.json.gz').read_bytes()))


def test_files_with_their_sizes_are_recorded(run, images):
  files = {str(path.relative_to(images)): path.stat().st_size for path in images.rglob('*.png')}
  assert record(run).items() >= {'classes': ['a', 'b'], 'contents': files, 'init': None}.items()


def test_the_same_data_are_the_same_run_wherever_they_are(run, images, tmp_path, caplog):
  start(run, config_of(f'{images}/'))
  images.rename(tmp_path / 'moved')
  with caplog.at_level(logging.INFO):
    start(run, config_of(f'file://{tmp_path}/moved'))
  assert f'the same in folder:file://{tmp_path}/moved as they were in folder:{images}' in (
    caplog.text
  )
  assert not (run / 'metrics.jsonl').exists()


def test_a_folder_of_evaluation_images_is_a_part_of_the_data(images, tmp_path):
  shutil.copytree(images, tmp_path / 'held-out')
  splits = {'data.train_split': 'train', 'data.eval_split': f'folder:{tmp_path}/held-out'}
  config = config_of(images, **splits)
  start(tmp_path / 'run', config)
  assert len(record(tmp_path / 'run')['contents']) == 16
  (tmp_path / 'held-out').rename(tmp_path / 'moved')
  config = config.with_fields({'data.eval_split': f'folder:{tmp_path}/moved'})
  start(tmp_path / 'run', config)
  (tmp_path / 'moved' / 'a' / '0.png').unlink()
  with pytest.raises(UserError, match=r'1 removed \(evaluation: a/0\.png\)'):
    start(tmp_path / 'run', config)


def test_other_data_in_another_place_are_refused(run, images, tmp_path):
  shutil.copytree(images, tmp_path / 'other')
  (tmp_path / 'other' / 'a' / '9.png').write_bytes((images / 'a' / '0.png').read_bytes())
  (tmp_path / 'other' / 'b' / '0.png').write_bytes(b'of another size')
  with pytest.raises(
    UserError, match=r'/other are not those of folder:.*/images: 1 added .*1 changed'
  ):
    start(run, config_of(tmp_path / 'other'))


@pytest.mark.parametrize('split', ['train', 'train[:75%]'])
def test_changed_files_are_named_and_accepted_if_asked(images, tmp_path, split, monkeypatch):
  monkeypatch.setattr(run_data, 'newest_metadata', lambda _: {'step': 4})
  config = config_of(images, **{'data.train_split': split})
  start(tmp_path / 'run', config)
  (images / 'a' / '0.png').rename(images / 'b' / 'moved.png')
  (images / 'a' / '1.png').unlink()
  (images / 'b' / '7.png').write_bytes(b'new')
  (images / 'b' / '2.png').write_bytes(b'edited')
  before = (tmp_path / 'run' / 'data.json.gz').read_bytes()
  with pytest.raises(UserError) as error:
    start(tmp_path / 'run', config)
  (line,) = str(error.value).splitlines()
  assert 'changed since the run began: 1 added (b/7.png), 1 removed (a/1.png)' in line
  assert '1 renamed (a/0.png → b/moved.png), 1 changed (b/2.png (' in line
  assert '--config.data.changed=accept' in line
  assert (tmp_path / 'run' / 'data.json.gz').read_bytes() == before

  start(tmp_path / 'run', config.with_fields({'data.changed': 'accept'}))
  row = read_metrics(tmp_path / 'run')[0]
  assert (row['event'], row['step'], row['data']) == ('data_changed', 4, f'folder:{images}')
  assert [row[kind] for kind in ('added', 'removed', 'renamed', 'changed')] == [1, 1, 1, 1]
  assert row['names'][:2] == ['added: b/7.png', 'removed: a/1.png']
  start(tmp_path / 'run', config)  # what was accepted is recorded


@pytest.mark.parametrize('changed', ['refuse', 'accept'])
def test_other_classes_are_refused_always(run, images, changed):
  (images / 'a').rename(images / 'c')  # b is class 0 then
  with pytest.raises(UserError, match=r"other classes than .*: class 0 is 'b', not 'a'"):
    start(run, config_of(images, **{'data.changed': changed}))


def test_a_class_that_is_gone_is_not_answered_by_advice_to_change_the_model(run, images):
  shutil.rmtree(images / 'b')
  with pytest.raises(UserError, match='restore the classes that the run began with'):
    start(run, config_of(images))


def test_a_run_of_an_earlier_version_is_recorded_from_now_on(run, images, monkeypatch, caplog):
  known = {'classes': ['a', 'b']}
  monkeypatch.setattr(run_data, 'newest_metadata', lambda _: known)
  (run / 'data.json.gz').unlink()
  with caplog.at_level(logging.INFO):
    start(run, config_of(images))
  assert 'the data are recorded in data.json.gz from now on' in caplog.text
  assert len(record(run)['contents']) == 8
  (run / 'data.json.gz').unlink()
  known['classes'] = ['A', 'b']
  with pytest.raises(UserError, match="class 0 is 'a', not 'A'"):
    start(run, config_of(images))


def test_an_unrecorded_run_elsewhere_is_not_guessed_to_be_the_same(
  run, images, tmp_path, monkeypatch
):
  monkeypatch.setattr(run_data, 'newest_metadata', lambda _: {'classes': ['a', 'b']})
  (run / 'data.json.gz').unlink()
  images.rename(tmp_path / 'moved')
  with pytest.raises(UserError, match=r'no record of the content .*=accept if they are the same'):
    start(run, config_of(tmp_path / 'moved'))
  start(run, config_of(tmp_path / 'moved', **{'data.changed': 'accept'}))
  start(run, config_of(tmp_path / 'moved'))


def test_before_the_first_step_data_may_change(images, tmp_path):
  start(tmp_path / 'run', config_of(images), steps=False)
  (images / 'a' / '0.png').unlink()
  start(tmp_path / 'run', config_of(images))
  assert 'a/0.png' not in str(record(tmp_path / 'run'))


@pytest.mark.parametrize(
  'data',
  [
    b'',
    b'\x1f\x8b',
    gzip.compress(b'[1]', mtime=0),
    gzip.compress(b'{"classes": [], "contents": 1}', mtime=0),
    gzip.compress(b'[' * 100_000, mtime=0),
  ],
  ids=['empty', 'cut', 'list', 'types', 'deep'],
)
def test_a_damaged_record_is_one_line(run, images, data):
  (run / 'data.json.gz').write_bytes(data)
  with pytest.raises(UserError, match=r'data\.json\.gz is damaged .*: remove it'):
    start(run, config_of(images))


def test_initial_weights_that_were_moved_are_the_same(trained, digits_dir, tmp_path):
  own = {'data.data_dir': str(digits_dir), 'batch_size': 16, 'eval_batch_size': 64}
  begin = lambda path, **more: run_config(
    'configs/digits_finetune.py', init_from=str(path), **own, **more
  )
  start(tmp_path / 'run', begin(trained / 'checkpoints' / '6'))
  shutil.copytree(trained / 'checkpoints' / '6', tmp_path / 'copy')
  start(tmp_path / 'run', begin(tmp_path / 'copy'))
  with pytest.raises(UserError, match=r'init_from is .* not known to have the same weights'):
    start(tmp_path / 'run', begin(trained / 'checkpoints' / '3'))


def test_a_data_set_is_known_by_its_version_and_its_sizes(digits_dir):
  source = open_source('digits', 'train[:50%]+test', str(digits_dir))
  facts = source.contents()
  assert list(facts) == ['digits/1.0.0, train', 'digits/1.0.0, test']
  assert facts['digits/1.0.0, test'].startswith('360 examples of ')
  assert list(open_source('digits', 'test', str(digits_dir)).contents()) == list(facts)[1:]


def test_renamed_files_are_those_of_a_size_that_is_there_once():
  old = {'a': 1, 'b': 1, 'c': 2, 'd': 3, 'e': 4}
  new = {'x': 1, 'y': 1, 'z': 2, 'd': 3, 'e': 5}
  found = Changes.between(old, new)
  assert found == Changes(['x', 'y'], ['a', 'b'], ['c → z'], ['e (4 → 5)'])
  assert str(found) == '2 added (x, y), 2 removed (a, b), 1 renamed (c → z), 1 changed (e (4 → 5))'
  assert Changes.between(old, dict(old)) is None
  assert Changes.between(None, new) is None
  many = Changes.between({}, {f'{i:04d}': i for i in range(2000)})
  assert str(many) == '2,000 added (0000, 0001, 0002, …)'


def test_a_pipe_as_record_does_not_block(run, images):
  (run / 'data.json.gz').unlink()
  os.mkfifo(run / 'data.json.gz')
  with pytest.raises(UserError, match=r'json\.gz is not a regular file'):
    start(run, config_of(images))
