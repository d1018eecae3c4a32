"""Data sets by name: TFDS slicing, and one-line errors for missing ones."""

import io
import pathlib
import shutil

import pytest
import tensorflow_datasets as tfds

from mixer_jax.data import digits
from mixer_jax.data.catalog import class_ids, in_english, open_source
from mixer_jax.data.decode import decode
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from tests.helpers import made
from tests.helpers.made import prepare
from tests.helpers.photos import encoded, photo


@pytest.mark.parametrize(
  ('split', 'count'), [('train', 1437), ('train[:99%]', 1423), ('test[100:200]', 100)]
)
def test_splits_are_sliced_as_tfds_does(digits_dir, split, count):
  source = open_source('digits', split, str(digits_dir))
  whole = open_source('digits', split.split('[')[0], str(digits_dir))
  assert len(source) == count
  first = 100 if split.startswith('test') else 0
  assert source[0]['image'] == whole[first]['image']
  assert source[count - 1]['label'] == whole[first + count - 1]['label']


@pytest.mark.parametrize(
  ('name', 'split', 'message'),
  [
    ('nonsense_set', 'train', "no TFDS data set 'nonsense_set'"),
    ('imagnet2012', 'train', 'did you mean imagenet2012 or'),
    ('digit', 'train', 'did you mean digits'),
    ('cifar10', 'train', r'not prepared in .*: run `mixer-jax data prepare cifar10'),
    ('digits', 'tran', r"no split 'tran': it has train, test, with slices as in"),
    ('digits', 'train[:150%', r"no split 'train\[:150%'"),
    ('digits', 'train[:0]', 'is empty'),
    ('digits', '', 'no split is given; it has train, test'),
  ],
)
def test_missing_data_sets_and_splits_are_named(digits_dir, name, split, message):
  with pytest.raises(UserError, match=message) as error:
    open_source(name, split, str(digits_dir))
  assert '\n' not in str(error.value)


def test_a_damaged_data_set_is_named_with_the_way_out(digits_dir, tmp_path):
  shutil.copytree(digits_dir / 'digits', tmp_path / 'a' / 'digits')
  (record,) = (tmp_path / 'a').rglob('digits-test.array_record*')
  record.write_bytes(record.read_bytes()[:3000])
  with pytest.raises(UserError, match=r'is damaged .*: remove that folder and prepare it again'):
    open_source('digits', 'test', str(tmp_path / 'a'))
  shutil.copytree(digits_dir / 'digits', tmp_path / 'b' / 'digits')
  (tmp_path / 'b' / 'digits' / '1.0.0' / 'dataset_info.json').write_text('{')
  with pytest.raises(UserError, match=r'is damaged .*: remove that folder and prepare it again'):
    open_source('digits', 'test', str(tmp_path / 'b'))


@pytest.fixture(scope='module')
def shards(tmp_path_factory) -> pathlib.Path:
  """A data_dir with 40 examples of `imagenet2012`, in 5 files of array_record."""
  folder = tmp_path_factory.mktemp('shards')
  records = [
    {'image': io.BytesIO(bytes([i]) * 20_000), 'label': i, 'file_name': f'{i}.JPEG'}
    for i in range(40)
  ]
  made.prepare_splits(
    'imagenet2012', {'train': records}, folder, file_format='array_record', shards=5
  )
  return folder


def cut(path: pathlib.Path, length: int) -> None:
  path.write_bytes(path.read_bytes()[:length])


@pytest.mark.parametrize(
  'damage', [lambda p: cut(p, 100_000), lambda p: cut(p, 1000), lambda p: p.unlink()]
)
def test_a_truncated_file_is_named_when_it_is_read(shards, tmp_path, damage):
  shutil.copytree(shards / 'imagenet2012', tmp_path / 'imagenet2012')
  (path,) = tmp_path.rglob('*-00002-of-00005')
  damage(path)
  source = open_source('imagenet2012', 'train', str(tmp_path))
  assert source[0]['label'] in range(40)
  with pytest.raises(UserError, match=r'data set imagenet2012 in .* is damaged .*prepare it again'):
    source[20]


def test_a_temporary_error_is_not_reported_as_damage(shards, monkeypatch):
  source = open_source('imagenet2012', 'train', str(shards))

  class Failing:
    def __getitem__(self, index):
      raise RuntimeError('read() failed: Input/output error')

  monkeypatch.setattr(source.records, '_records', Failing())
  with pytest.raises(RuntimeError, match='Input/output'):
    source[0]


def test_another_version_is_named_with_the_way_to_read_it(shards, tmp_path):
  shutil.copytree(shards / 'imagenet2012' / '5.1.0', tmp_path / 'imagenet2012' / '5.0.0')
  with pytest.raises(UserError, match=r'has version 5.0.0, but version 5.1.0 is') as error:
    open_source('imagenet2012', 'train', str(tmp_path))
  assert 'name it imagenet2012:5.0.0, or run `mixer-jax data prepare' in str(error.value)
  assert '\n' not in str(error.value)
  assert len(open_source('imagenet2012:5.0.0', 'train', str(tmp_path))) == 40


def test_reading_writes_nothing_to_the_data_dir(shards, digits_dir):
  # As on a bucket that is mounted read-only.
  for name, split, folder in (('imagenet2012', 'train', shards), ('digits', 'test', digits_dir)):
    below = sorted((folder / name).rglob('*'))
    before = [(path, path.stat().st_mtime_ns, path.stat().st_size) for path in below]
    source = open_source(name, split, str(folder))
    assert len([source[i] for i in range(len(source))]) in (40, 360)
    after = [
      (p, p.stat().st_mtime_ns, p.stat().st_size) for p in sorted((folder / name).rglob('*'))
    ]
    assert after == before


@pytest.mark.parametrize('name', ['imagenet2012', 'digits', 'imagenet21k'])
@pytest.mark.parametrize('is_argument', [True, False])
def test_a_bucket_is_rejected_with_two_ways_out(name, is_argument, monkeypatch):
  if not is_argument:
    monkeypatch.setenv('TFDS_DATA_DIR', 'gs://bucket/tfds')
  with pytest.raises(UserError, match=r'gs://bucket/tfds directly: mount .* gcsfuse, or copy'):
    open_source(name, 'train', 'gs://bucket/tfds' if is_argument else '')


def test_a_record_with_a_missing_or_unknown_label_is_named():
  records = [{'image': b'', 'label': label, 'file_name': f'{label}.png'} for label in (1, -1, 3)]
  source = Source('made/test', ('a', 'b', 'c'), records)
  assert source[0]['label'] == 1
  with pytest.raises(UserError, match=r'record made/test#1 \(-1.png\) has no label \(-1\)'):
    source[1]
  with pytest.raises(
    UserError, match=r'made/test#2 \(3.png\) has label 3, .* 3 classes are 0 to 2'
  ):
    source[2]
  renumbered = source.renumbered(tuple('vwxyz'), (4, 3, 0))
  assert renumbered[0]['label'] == 3
  for index in (1, 2):
    with pytest.raises(UserError, match='3 classes are 0 to 2'):
      renumbered[index]


def test_data_sets_without_images_and_labels_are_rejected(tmp_path):
  with tfds.testing.mock_data(num_examples=1):
    pass  # imports what the builder below needs

  class Texts(tfds.core.GeneratorBasedBuilder):
    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
      features = tfds.features.FeaturesDict({'text': tfds.features.Text()})
      return tfds.core.DatasetInfo(builder=self, features=features)

    def _split_generators(self, dl_manager):
      return {'train': iter([(0, {'text': 'a'})])}

    def _generate_examples(self):
      yield from ()

  Texts(data_dir=tmp_path, file_format='array_record').download_and_prepare()
  with pytest.raises(UserError, match='does not have images with one label each'):
    open_source('texts', 'train', str(tmp_path))


@pytest.fixture
def others(tmp_path) -> pathlib.Path:
  """`digits` as TFRecord, under another name so that it is not mistaken for the included one."""
  digits.Digits(data_dir=tmp_path, file_format='tfrecord').download_and_prepare()
  (tmp_path / 'digits').rename(tmp_path / 'others')
  info = tmp_path / 'others' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('"name": "digits"', '"name": "others"'))
  for path in info.parent.glob('digits-*'):
    path.rename(path.with_name(path.name.replace('digits', 'others')))
  return tmp_path


@pytest.mark.parametrize('split', ['train', 'test[:50%]'])
def test_a_data_set_prepared_as_tfrecord_is_read_unchanged(others, digits_dir, split, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(others / 'cache'))
  ours = open_source('others', split, str(others))
  theirs = open_source('digits', split, str(digits_dir))
  assert ours.name == f'others/{split}'
  assert ours.classes == theirs.classes
  assert [ours.records[i] for i in range(len(ours))] == [
    theirs.records[i] for i in range(len(theirs))
  ]


def test_a_data_set_of_an_old_tfds_without_a_format_is_read(others, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(others / 'cache'))
  info = others / 'others' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('"fileFormat": "tfrecord",', ''))
  assert 'fileFormat' not in info.read_text()
  assert len(open_source('others', 'test', str(others))) == 360


def test_a_data_set_without_random_access_says_how_to_get_it(others):
  info = others / 'others' / '1.0.0' / 'dataset_info.json'
  info.write_text(info.read_text().replace('"tfrecord"', '"riegeli"'))
  with pytest.raises(UserError, match=r'is stored as .*`mixer-jax data prepare others`'):
    open_source('others', 'train', str(others))


def test_imagenet_real_has_the_original_label_and_the_correct_ones(tmp_path):
  image = encoded(photo(20, 30))
  records = [
    {
      'image': io.BytesIO(image),
      'original_label': 7,
      'real_label': labels,
      'file_name': f'{i}.JPEG',
    }
    for i, labels in enumerate([[7, 9], [], [3]])
  ]
  prepare('imagenet2012_real', 'validation', records, tmp_path)
  source = open_source('imagenet2012_real', 'validation', str(tmp_path))
  assert len(source.classes) == 1000
  found = sorted((source[i] for i in range(3)), key=lambda record: record['name'].split('(')[1])
  assert [record['label'] for record in found] == [7, 7, 7]
  assert [record['accepted'] for record in found] == [[7, 9], [], [3]]
  assert found[0]['image'] == image


@pytest.mark.parametrize(
  ('name', 'split'), [('imagenet2012', 'validation'), ('imagenet_v2', 'test'), ('cifar10', 'test')]
)
def test_the_builders_own_features_are_read(tmp_path, name, split):
  record = {'image': photo(32, 32), 'label': 3, 'file_name': 'a.JPEG', 'id': 'a'}
  features = tfds.builder(name, data_dir=tmp_path).info.features
  prepare(name, split, [{k: record[k] for k in features}], tmp_path)
  source = open_source(name, split, str(tmp_path))
  assert source.accepted is None
  assert source[0]['label'] == 3
  assert decode(source[0]['image']).shape == (32, 32, 3)


def test_class_names_need_no_prepared_data_set():
  assert class_ids('imagenet2012')[281] == 'n02123045'
  assert in_english(class_ids('imagenet2012'))[281] == 'tabby, tabby cat'
  assert in_english(class_ids('imagenet_v2'))[999].startswith('toilet tissue')
  assert in_english(class_ids('oxford_flowers102'))[0] == 'pink primrose'
  assert in_english(class_ids('digits'))[3] == '3'
  with pytest.raises(UserError, match='no TFDS data set'):
    class_ids('nonsense_set')
  with pytest.raises(UserError, match='has no class names'):
    class_ids('wmt14_translate')
