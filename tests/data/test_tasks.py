"""The tasks of VTAB-1k and Avg 5: against TFDS's own specs, NumPy, and made-up data sets."""

import collections
import dataclasses
import itertools
import pickle
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mixer_jax.data.catalog import class_ids, open_source
from mixer_jax.data.decode import decode
from mixer_jax.data.task_labels import (
  Binned,
  Stored,
  brighten,
  clevr_count,
  clevr_distance,
  kitti_distance,
)
from mixer_jax.data.task_records import open_task
from mixer_jax.data.tasks import find_task, suite
from mixer_jax.errors import UserError
from tests.helpers.made import kitti_record, prepare_splits
from tests.helpers.photos import encoded

TASKS = [*suite('vtab'), *suite('avg5')]
VTAB = suite('vtab')
SIZES = {  # examples by split, as TFDS's catalogue has them
  'caltech101': {'train': 3060, 'test': 6084},
  'cifar100': {'train': 50_000, 'test': 10_000},
  'dtd': {'train': 1880, 'validation': 1880, 'test': 1880},
  'oxford_flowers102': {'train': 1020, 'validation': 1020, 'test': 6149},
  'oxford_iiit_pet': {'train': 3680, 'test': 3669},
  'sun397/tfds': {'train': 76_128, 'validation': 10_875, 'test': 21_750},
  'svhn_cropped': {'train': 73_257, 'test': 26_032},
  'patch_camelyon': {'train': 262_144, 'validation': 32_768, 'test': 32_768},
  'eurosat/rgb': {'train': 27_000},
  'resisc45': {'train': 31_500},
  'diabetic_retinopathy_detection/btgraham-300': {
    'train': 35_126,
    'validation': 10_906,
    'test': 42_670,
  },
  'clevr': {'train': 70_000, 'validation': 15_000, 'test': 15_000},
  'dmlab': {'train': 65_550, 'validation': 22_628, 'test': 22_735},
  'dsprites': {'train': 737_280},
  'kitti': {'train': 6347, 'validation': 423, 'test': 711},
  'smallnorb': {'train': 24_300, 'test': 24_300},
  'imagenet2012': {'train': 1_281_167, 'validation': 50_000},
  'cifar10': {'train': 50_000, 'test': 10_000},
}
VALIDATION = {  # the library's validation parts, in percent where they are cut off
  'caltech101': 'train[90%:]',
  'cifar100': 'train[90%:]',
  'oxford_iiit_pet': 'train[80%:]',
  'svhn_cropped': 'train[90%:]',
  'eurosat/rgb': 'train[60%:80%]',
  'resisc45': 'train[60%:80%]',
  'clevr': 'train[90%:]',
  'dsprites': 'train[80%:90%]',
  'smallnorb': 'test[:50%]',
}
TEST = {
  'eurosat/rgb': 'train[80%:]',
  'resisc45': 'train[80%:]',
  'clevr': 'validation',
  'dsprites': 'train[90%:]',
  'smallnorb': 'test[50%:]',
}


def ranges(split: str, sizes: dict[str, int]) -> list[tuple[str, int, int]]:
  """Return TFDS's reading of a split: names of splits, and the examples of each."""
  infos = {name: tfds.core.SplitInfo(name, [count], 0) for name, count in sizes.items()}
  parts = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  # None is an end that was not given.
  return [(p.splitname, p.from_ or 0, p.to or sizes[p.splitname]) for p in parts]


def feature(features, path: str):
  for name in path.split('/'):
    features = features[name]
  return features


def test_the_suites_are_those_of_the_papers():
  assert collections.Counter(task.group for task in VTAB) == {
    'natural': 7,
    'specialised': 4,
    'structured': 8,
  }
  assert [task.name for task in suite('avg5')] == [
    f'avg5/{name}' for name in ('imagenet', 'cifar10', 'cifar100', 'pets', 'flowers102')
  ]
  assert len({task.name for task in TASKS}) == 24 == len(set(TASKS))
  assert {task.data_set for task in TASKS} == set(SIZES)


@pytest.mark.parametrize('task', TASKS, ids=lambda task: task.name)
def test_tfds_has_what_a_task_reads(task):
  features = tfds.builder(task.data_set, try_gcs=False).info.features
  image = features['image']
  assert isinstance(image, tfds.features.Image)
  assert image.dtype == np.uint8
  if task.group != 'avg5':
    height, width = image.shape[:2]
    assert task.size == (224 if height is not None and height * width < 96 * 96 else 448)
  for path in task.reads:
    assert feature(features, path) is not None
  if isinstance(task.label, Stored):
    label = feature(features, task.label.feature)
    assert isinstance(label, tfds.features.ClassLabel)
    assert label.num_classes == task.classes
    assert not task.class_names
  else:
    assert len(task.class_names) == len(set(task.class_names)) == task.classes
  if isinstance(task.label, Binned):
    assert feature(features, task.label.feature).num_classes == task.label.values
    assert task.label.bins == task.classes
  if task.label is kitti_distance:
    assert features['objects']['type'].names[:3] == ['Car', 'Van', 'Truck']
    assert features['objects']['location'].shape == (3,)
  if task.label is clevr_distance:
    assert features['objects']['pixel_coords'].shape == (3,)


IMAGENETS = {'imagenet2012': 'label', 'imagenet2012_real': 'real_label', 'imagenet_v2': 'label'}


def test_all_specs_load_without_a_network(monkeypatch, tmp_path):
  def no_network(*_):
    raise AssertionError('the network was asked')

  monkeypatch.setattr(socket.socket, 'connect', no_network)
  monkeypatch.setattr(socket, 'getaddrinfo', no_network)
  for name in {task.data_set for task in TASKS} | set(IMAGENETS):
    info = tfds.builder(name, data_dir=tmp_path, try_gcs=False).info
    assert isinstance(info.features['image'], tfds.features.Image), name
  for name, key in IMAGENETS.items():
    label = tfds.builder(name, data_dir=tmp_path, try_gcs=False).info.features[key]
    label = label.feature if isinstance(label, tfds.features.Sequence) else label
    assert label.num_classes == 1000


@pytest.mark.parametrize('task', VTAB, ids=lambda task: task.name)
def test_the_parts_of_vtab_are_800_and_200_examples_of_the_library_s_own(task):
  sizes = SIZES[task.data_set]
  train = ranges(task.split('train800'), sizes)
  val = ranges(task.split('val200'), sizes)
  test = ranges(task.split('test'), sizes)
  assert train == [('train', 0, 800)]
  (name, begin, _) = ranges(VALIDATION.get(task.data_set, 'validation'), sizes)[0]
  assert val == [(name, begin, begin + 200)]
  assert test == ranges(TEST.get(task.data_set, 'test'), sizes)
  assert ranges(task.split('train800val200'), sizes) == train + val
  seen = collections.defaultdict(list)
  for name, begin, end in train + val + test:
    seen[name].append((begin, end))
  for spans in seen.values():
    spans.sort()
    assert all(end <= begin for (_, end), (begin, _) in itertools.pairwise(spans))
  assert task.tuning == ('train800', 'val200')
  assert task.reporting == ('train800val200', 'test')


@pytest.mark.parametrize('task', suite('avg5'), ids=lambda task: task.name)
def test_the_parts_of_avg5_do_not_overlap(task):
  sizes = SIZES[task.data_set]
  ((_, begin, end),) = ranges(task.split('train'), sizes)
  ((_, from_, to),) = ranges(task.split('val'), sizes)
  assert (begin, end, to) == (0, from_, sizes['train'])
  assert ranges(task.split('trainval'), sizes)[0] == ('train', 0, sizes['train'])
  assert ranges(task.split('test'), sizes)[0][0] != 'train'
  assert task.tuning == ('train', 'val')
  assert task.reporting == ('train', 'test')


def scene(depths, kinds=None) -> dict:
  """Return a record with objects at these depths, as array_record's data source returns it."""
  places = [np.array([1.5, -200, depth], np.float32) for depth in depths]
  kinds = [0] * len(places) if kinds is None else kinds
  kinds = [np.int64(kind) for kind in kinds]
  return {'objects': {'pixel_coords': places, 'location': places, 'size': kinds, 'type': kinds}}


def around(*bounds: float) -> np.ndarray:
  """Return the bounds, the next float32 on either side, and other numbers."""
  at = np.array(bounds, np.float32)
  others = np.random.default_rng(0).uniform(min(bounds) - 6, max(bounds) + 6, 200)
  below, above = np.nextafter(at, np.float32(-np.inf)), np.nextafter(at, np.float32(np.inf))
  return np.concatenate([at, below, above, others.astype(np.float32)])


def test_clevr_counts_from_three_objects():
  assert [clevr_count(scene([5.0] * count)) for count in range(3, 11)] == list(range(8))


def test_clevr_distance_is_the_closest_object_s_bin():
  bounds = [8.0, 8.5, 9.0, 9.5, 10.0]
  for depth in around(*bounds):
    (expected,) = np.digitize([depth], bounds, right=True)
    assert clevr_distance(scene([depth + 3, depth, 50.0])) == expected
  assert clevr_distance(scene([])) == -1


def test_kitti_distance_is_the_closest_vehicle_s_bin():
  for depth in around(8.0, 20.0):
    (expected,) = np.digitize([depth], [8.0, 20.0], right=True)
    for kind in (0, 1, 2):  # the pedestrian and the tram in front do not count
      record = scene([depth + 1, depth, depth - 9, depth - 9], [0, kind, 3, 6])
      assert kitti_distance(record) == expected
  assert kitti_distance(scene([4.0, 5.0], [3, 7])) == 3
  assert kitti_distance(scene([])) == 3


def test_depths_may_be_an_array_too():
  record = scene([9.2, 8.7, 9.9])
  stacked = {'objects': {key: np.array(v) for key, v in record['objects'].items()}}
  assert clevr_distance(stacked) == clevr_distance(record) == 2
  assert kitti_distance(stacked) == kitti_distance(record) == 1
  assert clevr_count(stacked) == 0


@pytest.mark.parametrize(('name', 'values'), [('position', 32), ('orientation', 40)])
def test_dsprites_has_sixteen_bins(name, values):
  task = find_task(f'vtab/dsprites_{name}')
  at = np.arange(values)
  edges = np.linspace(0, values, 17)[1:-1]
  labels = [task.label({task.reads[0]: np.int64(value)}) for value in at]
  np.testing.assert_array_equal(labels, np.digitize(at, edges))
  # as in the library: floor of the float32 quotient
  np.testing.assert_array_equal(labels, np.float32(at) // np.float32(values / 16))
  assert task.class_names[0].endswith(' 0-1' if values == 32 else ' 0-2')
  assert task.class_names[-1].endswith(f'{values - 1}')


def sprite(index: int) -> dict:
  image = np.zeros((64, 64, 1), np.uint8)
  image[index % 50 : index % 50 + 9, 4:20] = 1
  numbers = dict.fromkeys(('label_shape', 'label_scale', 'label_y_position'), 0)
  values = ('shape', 'scale', 'orientation', 'x_position', 'y_position')
  return {
    'image': image,
    'label_orientation': index % 40,
    'label_x_position': index % 32,
    **numbers,
    **{f'value_{name}': 0.0 for name in values},
  }


@pytest.fixture(scope='module', params=['array_record', 'tfrecord'])
def sprites(request, tmp_path_factory):
  """A small dSprites, and the task with splits of its size."""
  folder = tmp_path_factory.mktemp('sprites')
  records = [sprite(i) for i in range(100)]
  prepare_splits('dsprites', {'train': records}, folder, file_format=request.param)
  splits = {'train800': 'train[:80]', 'val200': 'train[80:90]'}
  splits |= {'train800val200': 'train[:80]+train[80:90]', 'test': 'train[90:]'}
  task = find_task('vtab/dsprites_orientation')
  return dataclasses.replace(task, splits=splits), str(folder)


def test_sprites_are_brightened_and_labelled(sprites, tmp_path, monkeypatch):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path))
  task, folder = sprites
  both = open_task(task, 'train800val200', folder)
  assert (len(both), both.name) == (90, 'vtab/dsprites_orientation/train800val200')
  assert len(both.classes) == 16
  builder = tfds.builder('dsprites', data_dir=folder, try_gcs=False)
  seen = collections.Counter()
  for part in ('train800', 'val200', 'test'):
    source = open_task(task, part, folder)
    for record in (source[i] for i in range(len(source))):
      image = decode(record['image'])
      assert image.shape == (64, 64, 3)
      assert (image[..., :1] == image).all()
      assert (image == 255).sum() == 3 * 9 * 16
      assert (image == 0).sum() == image.size - 3 * 9 * 16
      seen[record['label']] += 1
  full = np.digitize(np.arange(100) % 40, np.linspace(0, 40, 17)[1:-1])
  assert seen == collections.Counter(full.tolist())
  assert builder.info.splits['train'].num_examples == sum(seen.values())
  again = pickle.loads(pickle.dumps(both))
  assert again[89] == both[89]
  with pytest.raises(IndexError):
    both[90]


def test_undecodable_data_is_left_for_the_decoder_to_report():
  for data in (b'', b'nothing'):
    assert brighten(data) == data


@pytest.fixture(scope='module')
def kitti(tmp_path_factory) -> str:
  folder = tmp_path_factory.mktemp('kitti')
  counts = {'train': 810, 'validation': 210, 'test': 12}
  records = {name: [kitti_record(i) for i in range(count)] for name, count in counts.items()}
  prepare_splits('kitti', records, folder, file_format='array_record')
  return str(folder)


def test_the_parts_of_a_prepared_set_have_800_and_200_examples(kitti):
  task = find_task('vtab/kitti_distance')
  opened = {part: open_task(task, part, kitti) for part in task.splits}
  assert {part: len(source) for part, source in opened.items()} == {
    'train800': 800,
    'val200': 200,
    'train800val200': 1000,
    'test': 12,
  }
  both = opened['train800val200']
  assert both[799] == {**opened['train800'][799], 'name': both[799]['name']}
  assert both[800]['image'] == opened['val200'][0]['image']
  for i in range(0, 1000, 7):
    record = both[i]
    number = int(record['name'].split('(')[1].split('.')[0])
    depth = number % 40
    expected = 3 if number % 3 < 2 else np.digitize(depth, [8, 20], right=True)
    assert record['label'] == expected
    assert decode(record['image']).shape == (6, 20, 3)
  assert set(both.classes) == set(task.class_names)


def test_a_task_is_a_data_set_by_its_name(kitti):
  task = find_task('vtab/kitti_distance')
  full = open_task(task, 'val200', kitti)
  source = open_source(task.name, 'val200[10%:15%]', kitti)
  assert (source.name, source.classes) == (f'{task.name}/val200[10%:15%]', full.classes)
  ours, theirs = ([s[i] for i in range(n, n + 10)] for s, n in ((source, 0), (full, 20)))
  without_name = lambda records: [(r['image'], r['label']) for r in records]
  assert len(source) == 10
  assert without_name(ours) == without_name(theirs)
  with pytest.raises(IndexError):
    source[10]
  assert class_ids(task.name) == task.class_names
  assert class_ids('vtab/cifar100') == class_ids('cifar100')


@pytest.mark.parametrize(
  ('name', 'split', 'message'),
  [
    ('vtab/kitti_distanse', 'test', "no task 'vtab/kitti_distanse': did you mean vtab/kitti_dist"),
    ('vtb/kitti_distance', 'test', 'did you mean vtab/kitti_distance'),
    ('clevr_count', 'test', 'did you mean vtab/clevr_count'),
    ('vtab', 'test', 'did you mean vtab/'),
    ('vtab/kitti_distance', 'train[:10]', "has no part 'train': it has train800, val200"),
    ('vtab/kitti_distance', 'test[:10', r"no split 'test\[:10': slices are written as in"),
    ('vtab/kitti_distance', 'test[:0]', r"split 'test\[:0\]' of data set kitti is empty"),
    ('vtab/kitti_distance', 'test[:1]+val200[:1]', 'names several parts; name one'),
    ('vtab/kitti_distance', '', "has no part ''"),
  ],
)
def test_errors_suggest_names_and_parts(kitti, name, split, message):
  with pytest.raises(UserError, match=message) as error:
    open_source(name, split, kitti)
  assert '\n' not in str(error.value)


def test_prepared_data_sets_are_not_searched_in_a_bucket():
  with pytest.raises(UserError, match='mount the bucket with gcsfuse'):
    open_source('vtab/kitti_distance', 'test', 'gs://bucket/tfds')


def test_missing_tasks_and_data_sets_are_named(kitti, tmp_path):
  task = find_task('vtab/kitti_distance')
  with pytest.raises(UserError, match="no suite of tasks 'vtab2': there are vtab, avg5"):
    suite('vtab2')
  with pytest.raises(UserError, match="'caltech101': did you mean vtab/caltech101"):
    find_task('caltech101')
  with pytest.raises(UserError, match="'vtab/clevr_cont': did you mean vtab/clevr_count or"):
    find_task('vtab/clevr_cont')
  with pytest.raises(UserError, match="no task '': there are vtab/caltech101, "):
    find_task('')
  with pytest.raises(UserError, match=r"kitti_distance has no part 'train': it has train800, val"):
    open_task(task, 'train', kitti)
  with pytest.raises(UserError, match=r'not prepared in .*: run `mixer-jax data prepare kitti'):
    open_task(task, 'test', str(tmp_path))


def test_an_incomplete_data_set_is_named_with_its_counts(tmp_path):
  records = {'train': [kitti_record(i) for i in range(5)]}
  prepare_splits('kitti', records, tmp_path, file_format='array_record')
  task = find_task('vtab/kitti_distance')
  for part in ('train800', 'val200', 'test'):
    with pytest.raises(UserError, match='has the splits train \\(5\\): prepare all of it') as error:
      open_task(task, part, str(tmp_path))
    assert '\n' not in str(error.value)


def clevr_record(count: int) -> dict:
  thing = {'color': 0, 'material': 0, 'shape': 0, 'size': 0, 'rotation': 0.0}
  thing |= {'pixel_coords': [0.0, 0.0, 9.0], '3d_coords': [0.0, 0.0, 0.0]}
  question = {'question': 'how many?', 'answer': str(count)}
  image = np.zeros((8, 12, 3), np.uint8)
  objects = [thing] * count
  return {'image': image, 'file_name': 'a', 'objects': objects, 'question_answer': [question]}


def test_a_record_without_a_label_is_named(tmp_path):
  records = [clevr_record(count) for count in (3, 10, 11, 0)]
  prepare_splits('clevr', {'validation': records}, tmp_path, file_format='array_record')
  count, distance = find_task('vtab/clevr_count'), find_task('vtab/clevr_distance')
  labels, messages = [], []
  for task, i in itertools.product((count, distance), range(4)):
    single = {**task.splits, 'test': f'validation[{i}:{i + 1}]'}
    try:
      source = open_task(dataclasses.replace(task, splits=single), 'test', str(tmp_path))
      labels.append((task.name, source[0]['label']))
    except UserError as error:
      messages.append(str(error))
      labels.append((task.name, None))
  assert len(messages) == 3
  assert all('has no label of task' in message for message in messages)
  assert collections.Counter(labels) == {
    ('vtab/clevr_count', 0): 1,
    ('vtab/clevr_count', 7): 1,
    ('vtab/clevr_count', None): 2,
    ('vtab/clevr_distance', 2): 3,
    ('vtab/clevr_distance', None): 1,
  }


def test_grey_and_wide_images_are_decoded():
  grey = np.random.default_rng(0).integers(0, 256, (96, 96), np.uint8)  # as SmallNORB's
  np.testing.assert_array_equal(decode(encoded(grey, 'PNG')), np.stack([grey] * 3, -1))
  wide = np.random.default_rng(0).integers(0, 256, (375, 1242, 3), np.uint8)  # as KITTI's
  np.testing.assert_array_equal(decode(encoded(wide, 'PNG')), wide)


def test_tensorflow_is_not_needed():
  code = (
    'import sys\n'
    'from mixer_jax.data import task_records, tasks\n'
    'import tensorflow_datasets as tfds\n'
    'for task in tasks.suite("vtab"):\n'
    '  task_records.class_names(task, tfds.builder(task.data_set, try_gcs=False).info.features)\n'
    'assert "tensorflow" not in sys.modules\n'
  )
  subprocess.run([sys.executable, '-c', code], check=True, timeout=120)
