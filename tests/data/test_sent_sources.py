"""Sources that are sent to another process are read there, without TFDS and TensorFlow."""

import hashlib
import io
import pickle
import subprocess
import sys

import numpy as np
import pytest
from etils import epath

from mixer_jax.data.catalog import open_source
from mixer_jax.data.image_files import Files
from mixer_jax.data.source import Source
from mixer_jax.data.subset import subset
from mixer_jax.data.task_records import open_task
from mixer_jax.data.tasks import find_task
from tests.helpers.made import kitti_record, prepare_splits
from tests.helpers.photos import encoded, photo

HEAVY = ('tensorflow', 'tensorflow_datasets', 'jax', 'jaxlib', 'grain', 'flax', 'google.protobuf')

READ = f"""
import hashlib, pickle, sys
with open(sys.argv[1], 'rb') as file:
  sources = pickle.load(file)
for name, source in sources.items():
  records = [source[i] for i in (0, len(source) - 1)]
  print(name, len(source), hashlib.sha256(repr(records).encode()).hexdigest())
print('heavy', *(name for name in {HEAVY} if name in sys.modules))
"""


@pytest.fixture(scope='module')
def sources(tmp_path_factory) -> dict[str, Source]:
  """All kinds of sources."""
  root = tmp_path_factory.mktemp('sources')
  for kind in ('array_record', 'tfrecord'):
    records = [
      {'image': io.BytesIO(bytes([i] * 900)), 'label': i, 'file_name': f'{i}.JPEG'}
      for i in range(9)
    ]
    prepare_splits('imagenet2012', {'train': records}, root / kind, file_format=kind, shards=2)
  records = {'validation': [kitti_record(i) for i in range(200)]}
  prepare_splits('kitti', records, root, file_format='array_record')
  (root / 'folder' / 'a').mkdir(parents=True)
  for number in range(3):
    (root / 'folder' / 'a' / f'{number}.png').write_bytes(encoded(photo(8, 8), 'PNG'))
  files = [epath.Path(root / 'folder' / 'a' / f'{number}.png') for number in range(3)]
  array_record = open_source('imagenet2012', 'train[1:]', str(root / 'array_record'))
  return {
    'array_record': array_record,
    'tfrecord': open_source('imagenet2012', 'train', str(root / 'tfrecord')),
    'task': open_task(find_task('vtab/kitti_distance'), 'val200', str(root)),
    'folder': open_source(f'folder:{root}/folder', 'train[:2]'),
    'subset': subset(array_record, np.array([4, 2])),
    'renumbered': array_record.renumbered(['x', *array_record.classes], range(1, 1001)),
    'predictions': Source('image', ('',), Files(files, [0] * 3)),
  }


def read(source: Source) -> str:
  return hashlib.sha256(repr([source[i] for i in (0, len(source) - 1)]).encode()).hexdigest()


def test_a_fresh_process_reads_sources_without_what_is_heavy(sources, tmp_path):
  (tmp_path / 'sources').write_bytes(pickle.dumps(sources))
  command = [sys.executable, '-c', READ, str(tmp_path / 'sources')]
  done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
  wanted = [f'{name} {len(source)} {read(source)}' for name, source in sources.items()]
  assert done.stdout.splitlines() == [*wanted, 'heavy']
