"""Folders of splits: recognised, sliced, with one list of classes; words that mean nothing."""

import numpy as np
import pytest

from mixer_jax.data import folders
from mixer_jax.data.catalog import open_source
from mixer_jax.data.overlap import shared
from mixer_jax.errors import UserError
from tests.helpers.folder_sets import make


def counts_of(source) -> list[int]:
  """Images of each class."""
  labels = [source[i]['label'] for i in range(len(source))]
  return np.bincount(labels, minlength=len(source.classes)).tolist()


@pytest.mark.parametrize('val', ['val', 'valid', 'validation', 'Val'])
def test_folders_of_splits_are_splits_and_not_classes(tmp_path, val):
  data = make(
    tmp_path, {'train/china': 8, 'train/flower': 4, f'{val}/china': 3, f'{val}/flower': 2}
  )
  for split, wanted in (
    ('train', [8, 4]),
    ('val', [3, 2]),
    ('valid', [3, 2]),
    ('validation', [3, 2]),
  ):
    source = open_source(data, split)
    assert source.classes == ('china', 'flower')
    assert counts_of(source) == wanted
    assert source.name == f'{data}/{split}'
  assert source[4]['name'] == f'{data}/validation#4 ({tmp_path}/{val}/flower/1.png)'
  assert counts_of(open_source(data, 'train[:50%]')) == [4, 2]
  assert counts_of(open_source(data, 'train+val[:2]')) == [9, 5]
  advice = rf"has no split 'test': it has train, {val}, .*; set --config.data.eval_split={val}$"
  with pytest.raises(UserError, match=advice):
    open_source(data, 'test')
  with pytest.raises(UserError, match='no split is given; it has train'):
    open_source(data, '')


def test_training_and_testing_are_split_folders_too(tmp_path):
  data = make(tmp_path, {'Training/a': 2, 'Training/b': 2, 'Testing/a': 1, 'Testing/b': 1})
  assert counts_of(open_source(data, 'train')) == [2, 2]
  assert counts_of(open_source(data, 'test')) == [1, 1]


def test_all_splits_have_the_classes_that_any_has(tmp_path):
  data = make(
    tmp_path,
    {'train/1': 2, 'train/2': 2, 'train/10': 1, 'train/none': 0, 'test/2': 1, 'test/3': 4},
  )
  for split in ('train', 'test'):
    assert open_source(data, split).classes == ('1', '2', '3', '10')
  assert counts_of(open_source(data, 'test')) == [0, 1, 4, 0]
  assert folders.class_names(str(tmp_path)) == ('1', '2', '3', '10')


def test_names_of_classes_may_differ_in_case_between_splits(tmp_path):
  data = make(tmp_path, {'train/Flower': 2, 'train/china': 1, 'val/flower': 3, 'val/china': 4})
  assert open_source(data, 'val').classes == ('Flower', 'china')
  assert counts_of(open_source(data, 'val')) == [3, 4]
  data = make(tmp_path, {'val/FLOWER': 1})
  with pytest.raises(UserError, match='FLOWER, flower differ in case alone'):
    open_source(data, 'val')


def test_classes_called_train_and_test_with_images_inside_are_classes(tmp_path):
  data = make(tmp_path, {'train': 3, 'test': 2, 'bus': 1})
  source = open_source(data, 'train')
  assert (source.classes, counts_of(source)) == (('bus', 'test', 'train'), [1, 2, 3])


@pytest.mark.parametrize(
  ('counts', 'message'),
  [
    (
      {'train/a': 1, 'train/b': 1, 'test': 3},  # a test set without labels
      r'folders of images in train/, as splits have, and images in test/, as classes have: move '
      r'one or the other away, or name the folder of one split, folder:.*/train$',
    ),
    (
      {'train': 1, 'train/a': 1, 'val/a': 1},
      'in train/ and val/, as splits have, and images in train/',
    ),
    ({'train/steam': 1, 'bus': 1, 'tram': 1}, 'and images in bus/ and tram/, as classes have'),
    ({'train/a': 1, 'val/a': 1, 'valid/a': 1}, 'val/ and valid/, both for the validation split'),
  ],
)
def test_folders_that_may_be_one_or_the_other_are_refused(tmp_path, counts, message):
  data = make(tmp_path, counts)
  with pytest.raises(UserError, match=message) as error:
    open_source(data, 'train')
  assert '\n' not in str(error.value)


def test_the_way_out_leads_out(tmp_path):
  make(tmp_path, {'train/a': 1, 'train/b': 1, 'test': 3})
  assert counts_of(open_source(f'folder:{tmp_path}/train', '')) == [1, 1]


@pytest.mark.parametrize(
  'split', ['test', 'validation', 'whatever', 'test[:50%]', 'train[:50%]+val']
)
def test_words_that_mean_nothing_are_refused(tmp_path, split):
  data = make(tmp_path, {'a': 4, 'b': 4})
  with pytest.raises(UserError, match=r'has no split .* its folders are classes, so train is all'):
    open_source(data, split)


def test_images_that_are_twice_in_a_split_are_a_warning(tmp_path, digits_dir, caplog):
  data = make(tmp_path, {'a': 4, 'b': 4})
  assert len(open_source(data, 'train[:4]+train[2:]')) == 10
  assert 'train[2:] has 2 examples twice: its parts overlap' in caplog.text
  caplog.clear()
  open_source('digits', 'train[:100]+test+train[90:]', str(digits_dir))
  assert 'has 10 examples twice' in caplog.text
  caplog.clear()
  open_source('digits', 'train[:50%]+train[50%:]', str(digits_dir))
  assert 'twice' not in caplog.text


def test_shared_images_are_counted(tmp_path, digits_dir):
  data = make(tmp_path, {'train/a': 10, 'train/b': 10, 'val/a': 2, 'val/b': 2})
  open_these = lambda *splits: [open_source(data, split) for split in splits]
  assert shared(*open_these('train', 'val')) == 0
  assert shared(*open_these('train[:60%]', 'train[50%:]+val')) == 2
  inside = open_source(f'{data}/train', 'train')
  assert shared(inside, open_source(data, 'train[:5]')) == 5
  (tmp_path / 'link').symlink_to('train')
  assert shared(open_source(f'{data}/train', ''), open_source(f'{data}/link', '')) == 20
  (tmp_path / 'link').unlink()
  old = open_source(f'{data}/train', 'train[:50%]', folder_rules=1)
  assert shared(old, open_source(data, 'train')) == 10
  digits = lambda split: open_source('digits', split, str(digits_dir))
  assert shared(digits('train'), digits('test')) == 0
  assert shared(digits('train[:60]+test'), digits('train[50:100]')) == 10
  assert shared(digits('train'), inside) == 0


@pytest.mark.parametrize(
  ('counts', 'wanted'),
  [({'a': 2}, True), ({'train/a': 2}, True), ({'train/a': 1, 'val/a': 1}, False)],
)
def test_a_folder_without_a_split_to_evaluate_on(tmp_path, counts, wanted):
  make(tmp_path, counts)
  assert folders.has_only_train(str(tmp_path)) == wanted
