"""Data sets by name: TFDS slicing, and one-line errors for missing ones."""

import errno
import io
import json
import pathlib
import shutil
import subprocess

import pytest
import tensorflow_datasets as tfds

from mixer_jax.data import digits
from mixer_jax.data.catalog import class_ids, in_english, open_source
from mixer_jax.data.decode import decode
from mixer_jax.data.source import Source
from mixer_jax.errors import StorageError, UserError
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


def a_copy(digits_dir: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
  """Return the folder of one version of a copy of `digits`."""
  shutil.copytree(digits_dir / 'digits', tmp_path / 'digits')
  return tmp_path / 'digits' / '1.0.0'


@pytest.mark.parametrize('name', ['dataset_info.json', 'features.json'])
@pytest.mark.parametrize('text', ['', '{', 'rubbish', '[' * 100_000, '\x00' * 50])
def test_a_damaged_description_is_named_with_the_way_out(digits_dir, tmp_path, name, text):
  folder = a_copy(digits_dir, tmp_path)
  (folder / name).write_text(text)
  # features.json is read for a data set whose code is not here.
  data_set = 'digits' if name == 'dataset_info.json' else 'others'
  (tmp_path / 'digits').rename(tmp_path / data_set)
  with pytest.raises(UserError) as error:
    open_source(data_set, 'test', str(tmp_path))
  message = str(error.value)
  assert f'data set {data_set} in {tmp_path / data_set / "1.0.0"} is damaged ({name}: ' in message
  assert message.endswith('): remove that folder and prepare it again')
  assert '\n' not in message


@pytest.mark.parametrize('fields', [{'a field of tomorrow': 1}, {'splits': 'x'}])
def test_a_description_of_another_version_is_not_called_damaged(digits_dir, tmp_path, fields):
  path = a_copy(digits_dir, tmp_path) / 'dataset_info.json'
  path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
  with pytest.raises(UserError) as error:
    open_source('digits', 'test', str(tmp_path))
  message = str(error.value)
  versions = f'tensorflow-datasets {tfds.__version__}, protobuf '
  assert f'{tmp_path / "digits"} cannot be read by {versions}' in message
  assert 'pip install -U tensorflow-datasets' in message
  assert 'remove' not in message
  assert '\n' not in message


def test_an_error_of_a_library_is_not_called_damage(digits_dir, tmp_path, monkeypatch):
  a_copy(digits_dir, tmp_path)

  def fail(*_):  # as TensorFlow Datasets 4.9.9 with protobuf 7
    raise AttributeError("'FieldDescriptor' object has no attribute 'label'")

  monkeypatch.setattr(tfds.core.dataset_info, 'read_from_json', fail)
  monkeypatch.setattr(tfds.core.DatasetInfo, 'read_from_directory', fail)
  with pytest.raises(UserError, match="no attribute 'label'") as error:
    open_source('digits', 'test', str(tmp_path))
  assert 'remove' not in str(error.value)


def test_a_description_that_cannot_be_read_now_is_retried(digits_dir, tmp_path, monkeypatch):
  a_copy(digits_dir, tmp_path)
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0.3')
  read, left = tfds.core.DatasetInfo.read_from_directory, [1]

  def fail(self, folder):
    if left:
      left.pop()
      raise OSError(errno.ESTALE, 'Stale file handle')
    return read(self, folder)

  monkeypatch.setattr(tfds.core.DatasetInfo, 'read_from_directory', fail)
  assert len(open_source('digits', 'test', str(tmp_path))) == 360
  left += range(100)
  with pytest.raises(StorageError, match=r'digits cannot be read now: Stale file handle'):
    open_source('digits', 'test', str(tmp_path))


def test_a_folder_that_cannot_be_seen_now_is_not_prepared_again(tmp_path, monkeypatch):
  from mixer_jax.data import tfds_files

  def fail(_):
    raise PermissionError(errno.EACCES, 'Permission denied')

  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0')
  monkeypatch.setattr(tfds_files.os, 'stat', fail)
  for name in ('cifar10', 'digits'):
    with pytest.raises(StorageError, match=f'{name}/.* cannot be read now: Permission denied'):
      open_source(name, 'test', str(tmp_path))


def test_digits_without_tensorflow_say_what_to_install(tmp_path, monkeypatch):
  from mixer_jax.data import prepare as preparing

  monkeypatch.setattr(preparing.importlib.util, 'find_spec', lambda name: None)
  with pytest.raises(UserError, match=r"needs TensorFlow: pip install 'mixer_jax\[prepare\]'$"):
    open_source('digits', 'test', str(tmp_path))


def test_a_full_disk_while_digits_are_prepared_is_no_wrong_input(tmp_path, monkeypatch):
  from mixer_jax.data import prepare as preparing

  done = subprocess.CompletedProcess([], 74, 'digits cannot be written now: No space left\n')
  monkeypatch.setattr(preparing.subprocess, 'run', lambda *_, **__: done)
  with pytest.raises(StorageError, match=r'digits was not prepared: .* No space left'):
    open_source('digits', 'test', str(tmp_path))


def test_digits_that_another_process_prepared_first_are_read(digits_dir, tmp_path, monkeypatch):
  from mixer_jax.data import tfds_builders

  def lose(*_, **__):
    a_copy(digits_dir, tmp_path)
    raise StorageError('digits cannot be written now: the destination exists')

  monkeypatch.setattr(tfds_builders, 'prepare', lose)
  assert len(open_source('digits', 'test', str(tmp_path))) == 360


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
  ('damage', 'message'),
  [
    (lambda p: cut(p, 100_000), 'is damaged .*: remove that folder and prepare it again'),
    (lambda p: cut(p, 1000), 'is damaged .*: remove that folder and prepare it again'),
    (lambda p: p.unlink(), 'lacks a file .*: restore it, or prepare the data set again'),
  ],
)
def test_a_truncated_or_missing_file_is_named_when_it_is_read(shards, tmp_path, damage, message):
  shutil.copytree(shards / 'imagenet2012', tmp_path / 'imagenet2012')
  (path,) = tmp_path.rglob('*-00002-of-00005')
  damage(path)
  source = open_source('imagenet2012', 'train', str(tmp_path))
  assert source[0]['label'] in range(40)
  with pytest.raises(UserError, match=f'data set imagenet2012 in .* {message}'):
    source[20]


def test_a_temporary_error_is_not_reported_as_damage(shards, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0.3')
  source = open_source('imagenet2012', 'train', str(shards))
  wanted = source[0]
  readers = source.records._readers  # pyright: ignore[reportAttributeAccessIssue]
  opened, fails = readers._open_file, []

  class Failing:
    def __init__(self, path):
      self.reader = opened(path)

    def read(self, positions):
      if fails:
        raise RuntimeError(fails.pop())
      return self.reader.read(positions)

  monkeypatch.setattr(readers, '_open_file', Failing)
  readers._open.clear()
  fails += ['read() failed: Input/output error; reading x; at byte 0']
  assert source[0] == wanted
  fails *= 0
  fails += ['read() failed: Input/output error; reading x; at byte 0'] * 100
  with pytest.raises(StorageError, match=r'imagenet2012 in .* cannot be read now: .*Input/output'):
    source[0]


def test_another_reader_takes_the_place_of_one_that_failed(shards, monkeypatch):
  source = open_source('imagenet2012', 'train', str(shards))
  readers = source.records._readers  # pyright: ignore[reportAttributeAccessIssue]
  wanted, (first,) = source[3], list(readers._open.values())[:1]
  (path,) = list(readers._open)[:1]
  readers.drop(path)
  assert source[3] == wanted
  assert all(reader is not first for reader in readers._open.values())


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


def test_a_bucket_that_lost_a_slash_is_no_folder(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match='gs:/bucket/tfds lacks a slash: write gs://bucket/tfds'):
    open_source('digits', 'train', 'gs:/bucket/tfds')
  assert not any(tmp_path.iterdir())


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
