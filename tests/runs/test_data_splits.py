"""Images that are evaluated are not those that are trained on, or it is said."""

import logging
import types
from collections.abc import Mapping
from typing import Any

import pytest

from configs import evaluate as evaluate_config
from configs import pretrain
from mixer_jax.data.catalog import open_source
from mixer_jax.data.overlap import shared
from mixer_jax.errors import UserError
from mixer_jax.runs.config_versions import as_begun, stored_config
from mixer_jax.runs.data_splits import open_evaluated, open_train, with_held_out
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.trained_images import check_apart, warn_if_run_trained_on, warn_if_trained_on
from tests.helpers.configs import data, run_config
from tests.helpers.folder_sets import make

SMALL = {'batch_size': 8, 'eval_batch_size': 8, 'data.threads': 0, 'optimizer.warmup_steps': 1}
TWO = {'a': 20, 'b': 20}
SPLIT = {'train/a': 8, 'train/b': 8, 'val/a': 2, 'val/b': 2, 'test/a': 1, 'test/b': 1}


def build(name: str, changes: Mapping[str, Any] = types.MappingProxyType({}), classes: int = 2):
  """Build the experiment of the digits config on a folder."""
  fields = {'data.name': name, 'model.num_classes': classes, **SMALL, **changes}
  return build_experiment(run_config('configs/digits.py', **fields))


def warnings(caplog) -> list[str]:
  """Warnings of images that are learned from and evaluated."""
  texts = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
  return [text for text in texts if 'training images' in text]


def test_a_folder_of_classes_is_evaluated_on_a_part_that_is_held_out(tmp_path, caplog):
  name = make(tmp_path, TWO)
  with caplog.at_level(logging.INFO):
    built = build(name)
  assert (len(built.source), len(built.evaluated.source)) == (36, 4)
  assert shared(built.source, built.evaluated.source) == 0
  assert f'{name} has no test split: train[90%:], a tenth of each class, is held' in caplog.text
  assert not warnings(caplog)
  assert built.config.data.eval_split == 'test'  # the config remains as it was given
  assert with_held_out(built.evaluated.data) == built.evaluated.data


def test_a_run_by_the_first_rules_keeps_its_images_and_is_warned(tmp_path, caplog):
  built = build(make(tmp_path, TWO), {'data.folder_rules': 1})
  assert (len(built.source), len(built.evaluated.source)) == (40, 40)
  (line,) = warnings(caplog)
  assert line.startswith('40 of the 40 images of folder:')


def test_a_run_that_began_without_the_field_resumes_by_the_first_rules(tmp_path):
  now = run_config('configs/digits.py', **{'data.name': make(tmp_path, TWO)})
  fields = now.to_fields()
  del fields['data']['folder_rules']
  stored = {'config': stored_config('config.json', {'config': fields}), 'format': 0}
  assert stored['config']['data']['folder_rules'] == 1
  assert as_begun(now, stored).data.folder_rules == 1
  assert now.data.folder_rules == 2


def test_images_that_are_trained_on_and_evaluated_are_a_warning(tmp_path, caplog):
  name = make(tmp_path, TWO)
  build(name, {'data.train_split': 'train[:80%]', 'data.eval_split': 'train[75%:]'})
  (line,) = warnings(caplog)
  assert line.startswith(f'2 of the 10 images of {name}/train[75%:] are training images ({name}/')
  caplog.clear()
  build(name, {'data.train_split': 'train[:80%]', 'data.eval_split': 'train[80%:]'})
  assert not warnings(caplog)
  fields = {'data.train_split': 'train[:50%]', 'data.eval_split': 'train[50%:]'}
  build(name, {**fields, 'data.test_split': 'train'})
  assert len(warnings(caplog)) == 1


def test_words_that_are_no_split_are_refused_with_the_way_out(tmp_path):
  name = make(tmp_path, TWO)
  with pytest.raises(UserError, match=r"no split 'validation'.*Hold out a part, as in train\[:90%"):
    build(name, {'data.eval_split': 'validation'})
  with pytest.raises(UserError, match="no split 'test'"):
    build(name, {'data.train_split': 'train[:80%]'})


def test_another_folder_is_matched_by_the_names_of_its_classes(tmp_path, caplog):
  name = make(tmp_path / 'one', {'1': 3, '2': 3, '10': 3})
  other = make(tmp_path / 'two', {'10': 1, '2': 2})
  built = build(name, {'data.eval_split': other, 'data.test_split': f'{name}/'}, 3)
  found = built.evaluated.source
  assert found.classes == built.source.classes == ('1', '2', '10')
  assert [found[i]['label'] for i in range(3)] == [1, 1, 2]
  (line,) = warnings(caplog)  # of the test split, which is the training folder
  assert line.startswith('9 of the 9 images')
  unknown = make(tmp_path / 'three', {'1': 1, '3': 1, 'x': 1})
  with pytest.raises(UserError, match=r'has classes that .* does not have: 3, x; it has 1, 2, 10'):
    build(name, {'data.eval_split': unknown}, 3)
  with pytest.raises(UserError, match=r'set --config\.data\.name=folder:'):
    build(name, {'data.train_split': other, 'data.eval_split': other}, 3)
  splits = make(tmp_path / 'four', SPLIT)
  with pytest.raises(UserError, match=r'no split is given; it has train, val, test, as in folder'):
    build(name, {'data.eval_split': splits}, 3)


def test_split_folders_are_trained_and_evaluated_as_such(tmp_path, caplog):
  name = make(tmp_path, SPLIT)
  built = build(name, {'data.test_split': 'val'})
  assert built.tested is not None
  sources = (built.source, built.evaluated.source, built.tested.source)
  assert [len(source) for source in sources] == [16, 2, 4]
  assert {source.classes for source in sources} == {('a', 'b')}
  assert not warnings(caplog)
  row = {'kind': 'classification', 'split': 'train[:25%]'}
  build(name, {'evals': {'more': row}})
  assert warnings(caplog)[0].startswith(f'4 of the 4 images of {name}/train[:25%]')


def test_overlapping_parts_of_a_tfds_split_are_a_warning(digits_dir, caplog):
  digits = run_config('configs/digits.py', **SMALL, **{'data.data_dir': str(digits_dir)})
  build_experiment(digits)
  assert not warnings(caplog)
  build_experiment(digits.with_fields({'data.eval_split': 'train[99%:]'}))
  (line,) = warnings(caplog)
  assert line.startswith('14 of the 14 images of digits/train[99%:]')


def test_a_classifier_is_not_tested_on_images_that_it_learns_from(tmp_path):
  name = make(tmp_path, TWO)
  whole = open_source(name, 'train')
  with pytest.raises(UserError, match=r'10 of the 10 images of .* learned from: take two'):
    check_apart(open_source(name, 'train[75%:]'), whole)
  check_apart(open_source(name, 'train[75%:]'), open_source(name, 'train[:75%]'))


class Saved:
  """What a checkpoint says of its run."""

  def __init__(self, config):
    self.metadata = {'config': config.to_fields(), 'format': 1}


@pytest.mark.parametrize(
  ('trained', 'evaluated', 'count'),
  [
    (('{}', 'train'), '{}/train', 16),  # the same folder, named in another way
    (('{}', 'train'), '{}/val', 0),
    (('{}/train', 'train'), '{}/train', 14),  # a tenth of each class was held out
    (('{}/train', 'train[50%:]'), '{}/train', 8),
    (('folder-that-is-gone', 'train'), '{}/train', 0),
  ],
)
def test_a_run_that_is_evaluated_on_its_training_images(
  tmp_path, caplog, trained, evaluated, count
):
  name = make(tmp_path, SPLIT)
  fields = {'data.name': trained[0].format(name), 'data.train_split': trained[1]}
  if 'gone' in trained[0]:
    fields['data.name'] = 'folder:gone'
  saved = Saved(run_config('configs/digits.py', **fields))
  warn_if_run_trained_on(saved, open_source(evaluated.format(name), ''), '')  # pyright: ignore[reportArgumentType]
  assert len(warnings(caplog)) == (count > 0)
  if count:
    assert warnings(caplog)[0].startswith(f'{count} of the 16 images')


def test_a_run_that_is_evaluated_on_its_training_split_of_tfds(digits_dir, caplog):
  place = str(digits_dir)
  saved = Saved(run_config('configs/digits.py', **{'data.train_split': 'train[:100]'}))
  for split, wanted in (('test', 0), ('train[100:]', 0), ('train[99:]', 1)):
    warn_if_run_trained_on(saved, open_source('digits', split, place), place)  # pyright: ignore[reportArgumentType]
    assert len(warnings(caplog)) == wanted


def test_config_files_choose_the_splits_of_a_folder(tmp_path):
  name = make(tmp_path / 'splits', SPLIT)
  config = pretrain.get_config(f'B/32,jft300m,{name}')
  assert (config.data.train_split, config.data.eval_split) == ('train', 'val')
  assert (config.data.test_split, config.model.num_classes) == ('test', 2)
  assert evaluate_config.get_config(name).data.eval_split == 'test'
  name = make(tmp_path / 'classes', {**TWO, 'empty': 0})
  config = pretrain.get_config(f'B/32,jft300m,{name}')
  assert (config.data.train_split, config.data.eval_split) == ('train[:99%]', 'train[99%:]')
  assert (config.data.test_split, config.model.num_classes) == ('', 2)
  assert evaluate_config.get_config(name).data.eval_split == ''
  assert len(open_source(name, '')) == 40


def test_both_splits_of_a_config_are_those_that_are_held_apart(tmp_path):
  folder = data(name=make(tmp_path, TWO))
  assert (len(open_train(folder)), len(open_evaluated(folder))) == (36, 4)
  warn_if_trained_on(open_evaluated(folder), open_train(folder))
