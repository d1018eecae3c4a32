"""Random access to TFRecord data sets: the same records as from array_record and tf.data."""

import concurrent.futures
import errno
import hashlib
import io
import os
import pathlib
import pickle
import pty
import random
import shutil
import struct
import subprocess
import sys
import termios
import time

import pytest
import tensorflow_datasets as tfds

from mixer_jax.data import shards as shard_files
from mixer_jax.data import tfrecord_files, tfrecord_index, tfrecords
from mixer_jax.data.catalog import open_source
from mixer_jax.errors import StorageError, UserError
from tests.helpers.made import prepare_splits

NAME = 'imagenet2012'
COUNTS = {'train': 203, 'validation': 31}


def made_records(split: str, longest: int = 3000) -> list[dict]:
  """Return records with images of many lengths, including 0. (They are not decoded.)"""
  rng = random.Random(split)
  return [
    {
      'image': io.BytesIO(rng.randbytes(rng.randrange(longest) if i else 0)),
      'label': rng.randrange(1000),
      'file_name': f'{split}_{i}.JPEG',
    }
    for i in range(COUNTS[split])
  ]


def made(folder: pathlib.Path, file_format: str, longest: int = 3000) -> pathlib.Path:
  records = {split: made_records(split, longest) for split in COUNTS}
  prepare_splits(NAME, records, folder, file_format=file_format, shards=7)
  return folder


@pytest.fixture(scope='module')
def both(tmp_path_factory) -> dict[str, pathlib.Path]:
  """The data_dir of the same data set in either format."""
  root = tmp_path_factory.mktemp('both')
  return {kind: made(root / kind, kind) for kind in ('tfrecord', 'array_record')}


@pytest.fixture
def own(both, tmp_path) -> pathlib.Path:
  """A copy of the TFRecord data set, to be damaged."""
  shutil.copytree(both['tfrecord'], tmp_path / 'own')
  return tmp_path / 'own'


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> pathlib.Path:
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path / 'cache'))
  return tmp_path / 'cache'


@pytest.fixture
def scanned(monkeypatch) -> list[str]:
  """Files that are scanned."""
  paths, scan = [], tfrecord_index.scan

  def noting(path: str, examples: int):
    paths.append(path)
    return scan(path, examples)

  monkeypatch.setattr(tfrecord_index, 'scan', noting)
  return paths


def opened(folder: pathlib.Path, split: str = 'train'):
  return open_source(NAME, split, str(folder))


def shard(folder: pathlib.Path, number: int = 3) -> pathlib.Path:
  (path,) = folder.rglob(f'{NAME}-train.tfrecord-{number:05}-of-00007')
  return path


def version_folder(folder: pathlib.Path) -> pathlib.Path:
  return next(folder.rglob('dataset_info.json')).parent


def digest(source) -> str:
  return hashlib.sha256(repr([source[i] for i in range(len(source))]).encode()).hexdigest()


SPLITS = [
  *('train', 'validation', 'all', 'train+validation', 'validation[5:]+train[:10]'),
  *('train[:99%]', 'train[99%:]', 'train[-33%:]', 'train[10:20]', 'train[:30]+train[20:60]'),
  *('train[:2shard]', 'train[29:58]', 'train[28:29]'),  # 29 records per file
]


@pytest.mark.parametrize('split', SPLITS)
def test_a_split_has_the_records_that_array_record_has(both, split):
  ours, theirs = (opened(both[kind], split) for kind in ('tfrecord', 'array_record'))
  assert len(ours) == len(theirs) > 0
  assert (ours.name, ours.classes) == (theirs.name, theirs.classes)
  for i in range(len(ours)):
    assert ours[i] == theirs[i]
    assert ours.records[i] == theirs.records[i]  # with all features, of the same types
    assert {type(v) for v in ours.records[i].values()} == {bytes, int}


@pytest.mark.parametrize('split', SPLITS)
def test_a_split_has_the_records_that_tf_data_has_in_its_order(both, split):
  builder = tfds.builder(NAME, data_dir=both['tfrecord'])
  dataset = builder.as_dataset(
    split=split,
    shuffle_files=False,
    decoders={'image': tfds.decode.SkipDecoding()},
    read_config=tfds.ReadConfig(interleave_cycle_length=1, try_autocache=False),
  )
  source = opened(both['tfrecord'], split)
  assert list(tfds.as_numpy(dataset)) == [source.records[i] for i in range(len(source))]


def test_indices_outside_the_split_are_rejected(both):
  records = opened(both['tfrecord'], 'train[:10]').records
  for index in (-1, 10):
    with pytest.raises(IndexError):
      records[index]
  assert len(list(records)) == 10


def test_the_index_is_built_once_and_grows(both, cache, scanned):
  full = digest(opened(both['tfrecord'], 'train[:2shard]'))
  assert len(scanned) == 2
  opened(both['tfrecord'], 'validation')
  assert len(set(scanned)) == len(scanned) == 9
  opened(both['tfrecord'], 'all')
  assert len(set(scanned)) == len(scanned) == 14
  assert digest(opened(both['tfrecord'], 'train[:2shard]')) == full
  assert len(scanned) == 14
  assert [path.suffix for path in (cache / 'tfrecords').iterdir()] == ['.npz']


def test_a_changed_shard_is_indexed_again(own, tmp_path):
  before = digest(opened(own))
  other = made(tmp_path / 'other', 'tfrecord', longest=300)
  shutil.copyfile(shard(other), shard(own))
  after = [opened(own)[i] for i in range(COUNTS['train'])]
  expected = [opened(other)[i] for i in range(COUNTS['train'])]
  first = 3 * COUNTS['train'] // 7
  assert after[first : first + 29] == expected[first : first + 29]
  assert digest(opened(own)) != before


def test_a_shard_of_the_same_size_but_another_time_is_indexed_again(own, scanned):
  opened(own)
  scanned.clear()
  os.utime(shard(own), ns=(0, 0))
  opened(own)
  assert scanned == [str(shard(own))]


def test_shards_under_new_names_replace_the_old_in_the_index(own, tmp_path):
  opened(own)
  shutil.rmtree(own)
  prepare_splits(NAME, {s: made_records(s) for s in COUNTS}, own, file_format='tfrecord', shards=3)
  opened(own)
  names = tfrecord_index.load(str(version_folder(own)))
  assert sorted(names) == [f'{NAME}-train.tfrecord-{i:05}-of-00003' for i in range(3)]


def change(path: pathlib.Path, at: int) -> None:
  """Flip a bit of a byte."""
  data = bytearray(path.read_bytes())
  data[at] ^= 1
  path.write_bytes(data)


def second_record(path: pathlib.Path) -> int:
  """Return its first byte."""
  return struct.unpack('<Q', path.read_bytes()[:8])[0] + 16


def cut(path: pathlib.Path, count: int) -> None:
  path.write_bytes(path.read_bytes()[:count])


DAMAGES = {
  'cut within data': (lambda path: cut(path, -1), 'it ends within the record at byte'),
  'cut within a header': (
    lambda path: cut(path, second_record(path) + 5),
    'it ends within the record at byte',
  ),
  'cut between records': (
    lambda path: cut(path, second_record(path)),
    'it has 1 records, but dataset_info.json says 29',
  ),
  'empty': (lambda path: cut(path, 0), 'it has 0 records, but dataset_info.json says 29'),
  'other length': (lambda path: change(path, second_record(path)), 'no record begins at byte'),
  'zeros at the end': (
    lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    'no record begins at byte',
  ),
  'a record more': (
    lambda path: path.write_bytes(path.read_bytes() + path.read_bytes()[: second_record(path)]),
    'it has 30 records, but dataset_info.json says 29',
  ),
  'gone': (lambda path: path.unlink(), 'cannot be read .No such file'),
  'a folder': (lambda path: (path.unlink(), path.mkdir()), 'cannot be read .Is a directory'),
}


@pytest.mark.parametrize('damage', DAMAGES)
@pytest.mark.parametrize('indexed', [False, True])
def test_a_damaged_shard_is_named_with_the_way_out(own, damage, indexed):
  if indexed:
    opened(own)
  path = shard(own)
  inflict, message = DAMAGES[damage]
  inflict(path)
  with pytest.raises(UserError, match=message) as error:
    opened(own)
  assert str(path) in str(error.value)
  assert 'again' in str(error.value)
  assert '\n' not in str(error.value)
  opened(own, 'validation')  # which is intact


def test_damaged_data_is_found_when_it_is_read(own):
  path = shard(own)
  change(path, second_record(path) + 12)
  source = opened(own)
  good, bad = 0, []
  for i in range(len(source)):
    try:
      source[i]
      good += 1
    except UserError as error:
      bad.append(str(error))
  assert good == len(source) - 1
  assert (
    f'{path} is damaged (the record at byte {second_record(path)} has a wrong checksum)' in bad[0]
  )


@pytest.mark.parametrize('place', ['open', 'pread', 'stat'])
def test_an_error_of_reading_is_retried_and_is_no_damage(own, monkeypatch, place):
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0.3')
  read, fails = getattr(os, place), []

  def fail(*args, **kwargs):
    if fails and 'tfrecord' in str(args[0]) + place.replace('pread', 'tfrecord'):
      fails.pop()
      raise OSError(errno.ESTALE, 'Stale file handle')
    return read(*args, **kwargs)

  monkeypatch.setattr(tfrecord_files.os, place, fail)
  fails += [1]
  wanted = digest(opened(own))
  source = opened(own)
  records = source.records
  assert isinstance(records, tfrecords.TFRecords)
  records._files = records._no_files()
  fails += [1]
  assert digest(source) == wanted
  fails.clear()
  records._files = records._no_files()
  fails += range(1000)
  with pytest.raises(StorageError, match='cannot be read now: Stale file handle') as error:
    digest(opened(own) if place == 'stat' else source)
  assert 'tfrecord-0' in str(error.value)
  assert 'remove' not in str(error.value)


def test_a_shard_that_changes_while_it_is_in_use_is_named(own):
  source = opened(own)
  os.utime(shard(own), ns=(0, 0))
  with pytest.raises(UserError, match=r'00003-of-00007 was changed while in use: start again'):
    digest(source)
  shard(own).unlink()
  with pytest.raises(UserError, match='3-of-00007 cannot be read'):
    digest(source)


@pytest.mark.parametrize('content', [b'', b'not an index', None])
def test_a_damaged_index_is_built_again(both, cache, content, caplog):
  full = digest(opened(both['tfrecord']))
  (index,) = cache.rglob('*.npz')
  intact = index.read_bytes()
  index.write_bytes(intact[: len(intact) // 2] if content is None else content)
  assert digest(opened(both['tfrecord'])) == full
  assert len(index.read_bytes()) == len(intact)
  assert not [r for r in caplog.records if r.levelname == 'WARNING']


def test_every_damaged_byte_of_the_index_is_harmless(both, cache):
  full = digest(opened(both['tfrecord']))
  (index,) = cache.rglob('*.npz')
  intact = index.read_bytes()
  for at in random.Random(0).sample(range(len(intact)), 40):
    index.write_bytes(intact)
    change(index, at)
    assert digest(opened(both['tfrecord'])) == full


def test_an_index_of_another_version_is_not_used(both, monkeypatch):
  with monkeypatch.context() as patch:
    patch.setattr(tfrecord_index, '_VERSION', 0)
    opened(both['tfrecord'])
  assert tfrecord_index.load(str(version_folder(both['tfrecord']))) == {}


def test_without_a_writable_cache_the_index_is_in_memory(both, tmp_path, monkeypatch, caplog):
  (tmp_path / 'file').touch()
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path / 'file' / 'below'))
  source = opened(both['tfrecord'])
  assert digest(source) == digest(opened(both['array_record']))
  assert 'indices of data sets are not kept' in caplog.text
  assert 'MIXER_JAX_CACHE' in caplog.text


def test_an_index_that_cannot_be_finished_leaves_nothing(both, cache, monkeypatch, caplog):
  def full(*_, **__):
    raise OSError(28, 'No space left on device')

  monkeypatch.setattr(tfrecord_index.np, 'savez', full)
  opened(both['tfrecord'])
  assert 'No space left' in caplog.text
  assert not list((cache / 'tfrecords').iterdir())


READ = """
import sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('tensorflow', 'tensorboard'):
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
import hashlib
from mixer_jax.data.catalog import open_source
source = open_source(sys.argv[1], 'train', sys.argv[2])
records = repr([source[i] for i in range(len(source))])
assert 'tensorflow' not in sys.modules
print(hashlib.sha256(records.encode()).hexdigest())
"""


def test_processes_without_tensorflow_index_and_read_concurrently(both, cache):
  command = [sys.executable, '-c', READ, NAME, str(both['tfrecord'])]
  readers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
  answers = [reader.communicate()[0].strip() for reader in readers]
  assert [reader.returncode for reader in readers] == [0, 0]
  assert set(answers) == {digest(opened(both['array_record']))}
  assert [path.suffix for path in (cache / 'tfrecords').iterdir()] == ['.npz']


def test_threads_index_concurrently(both, cache):
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    answers = set(pool.map(lambda _: digest(opened(both['tfrecord'])), range(8)))
  assert answers == {digest(opened(both['array_record']))}
  assert [path.suffix for path in (cache / 'tfrecords').iterdir()] == ['.npz']


def test_threads_read_many_shards_through_few_open_files(tmp_path, monkeypatch):
  shards = 150
  records = [
    {'image': io.BytesIO(bytes([i % 251]) * i), 'label': i % 1000, 'file_name': str(i)}
    for i in range(3 * shards)
  ]
  prepare_splits(NAME, {'train': records}, tmp_path, file_format='tfrecord', shards=shards)
  monkeypatch.setattr(shard_files, '_MAX_OPEN', 5)
  before = len(os.listdir('/dev/fd'))
  source = opened(tmp_path)
  assert len(list(tmp_path.rglob('*.tfrecord-*'))) == shards
  order = random.Random(0).sample(range(len(source)), len(source)) * 4

  def check(records, index: int) -> int:
    record = records[index]
    assert record['image'] == bytes([int(record['file_name']) % 251]) * int(record['file_name'])
    assert record['label'] == int(record['file_name']) % 1000
    return len(os.listdir('/dev/fd'))

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    most = max(pool.map(check, [source.records] * len(order), order))
  # Five, one per thread that reads or opens, and the one that lists the folder.
  assert most <= before + 5 + 8 + 8
  del source
  assert len(os.listdir('/dev/fd')) <= before


def test_a_source_can_be_pickled_after_use(both):
  source = opened(both['tfrecord'], 'train[10:20]')
  full = digest(source)
  pickled = pickle.dumps(source)
  assert digest(pickle.loads(pickled)) == full


def test_a_bucket_is_rejected_with_the_way_out():
  part = tfrecords.Part('gs://b/imagenet2012/5.1.0/x.tfrecord-00000-of-00001', 0, 1, 1)
  with pytest.raises(UserError, match=r'in gs://b/imagenet2012/5.1.0 is .*: mount it with gcsfuse'):
    tfrecords.TFRecords([part], lambda data, end: data[:end], NAME)


def test_progress_is_shown_on_a_terminal_when_it_takes_long(both, monkeypatch):
  def slowly(*args):
    time.sleep(0.3)
    return scan(*args)

  scan = tfrecord_index.scan
  monkeypatch.setattr(tfrecord_index, '_SCANNERS', 1)
  leader, follower = pty.openpty()
  os.set_blocking(leader, False)
  with os.fdopen(follower, 'w') as terminal, os.fdopen(leader, 'rb', buffering=0) as screen:
    termios.tcsetwinsize(terminal, (25, 80))
    monkeypatch.setattr(sys, 'stderr', terminal)
    opened(both['tfrecord'], 'validation')
    assert screen.read(1000) is None
    monkeypatch.setattr(tfrecord_index, 'scan', slowly)
    opened(both['tfrecord'], 'train')
    assert b'indexing imagenet2012:' in screen.read(10000)


def test_no_progress_is_shown_without_a_terminal(both, monkeypatch, capfd):
  scan = tfrecord_index.scan
  monkeypatch.setattr(tfrecord_index, '_SCANNERS', 1)
  monkeypatch.setattr(tfrecord_index, 'scan', lambda *args: time.sleep(0.2) or scan(*args))
  opened(both['tfrecord'])
  assert capfd.readouterr() == ('', '')
