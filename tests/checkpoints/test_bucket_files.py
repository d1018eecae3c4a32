"""Weights files, a mirror and class folders in a bucket."""

import os
import pathlib
import subprocess
import sys

from tests.helpers import reference
from tests.helpers.fake_gcs import FakeGcs
from tests.helpers.photos import encoded, photo

_ROOT = pathlib.Path(__file__).parents[2]

_FILES = """
import dataclasses, sys
import numpy as np
import mixer_jax
from mixer_jax.checkpoints import published
from mixer_jax.data.catalog import open_source
config, params = mixer_jax.load('gs://bucket/mixer_tiny.npz')
for path in ('gs://bucket/out/w.npz', 'gs://bucket/out/w.safetensors'):
  mixer_jax.save(path, config, params)
  again, found = mixer_jax.load(path)
  assert again == config
  assert found['stem']['kernel'].tobytes() == params['stem']['kernel'].tobytes()
entry = published.Released('tiny/M', 'https://mixers.invalid/M.npz', config, None)
published.released['tiny/M'] = entry
assert mixer_jax.load('tiny/M')[0] == config
assert published.cached(entry).exists()
source = open_source('folder:gs://bucket/photos', '')
print(source.classes, len(source), [source[i]['label'] for i in range(len(source))])
from mixer_jax.data.image_files import find_images
print([str(path) for path in find_images(['gs://bucket/photos/ant', 'gs://bucket/photos/*/b.png'])])
for path in ('gs://bucket/none.npz', 'gs://bucket/photos/ant/a.jpg', 'missing/M'):
  try:
    if path == 'missing/M':
      published.released['missing/M'] = dataclasses.replace(entry, name='missing/M')
    mixer_jax.load(path)
  except mixer_jax.UserError as error:
    print(error)
assert 'tensorflow' not in sys.modules
"""


def test_weights_mirror_and_photographs_in_a_bucket(tmp_path):
  weights = (reference.DATA / 'mixer_tiny.npz').read_bytes()
  objects = {
    'mixer_tiny.npz': weights,
    'mirror/tiny/M.npz': weights,
    'photos/ant/a.jpg': encoded(photo(20, 30)),
    'photos/bee/b.png': encoded(photo(20, 30), 'PNG'),
  }
  with FakeGcs('bucket', objects) as gcs:
    done = subprocess.run(
      [sys.executable, '-c', _FILES],
      cwd=_ROOT,
      env={
        **os.environ,
        'MIXER_JAX_CACHE': str(tmp_path),
        'MIXER_JAX_MIRROR': 'gs://bucket/mirror',
        **gcs.environment,
      },
      capture_output=True,
      text=True,
      timeout=120,
      check=False,
    )
    left = set(gcs.objects) - set(objects)
    assert not gcs.unknown
  assert done.returncode == 0, done.stderr
  assert left == {'out/w.npz', 'out/w.safetensors'}
  lines = done.stdout.splitlines()
  assert lines[0] == "('ant', 'bee') 2 [0, 1]"
  assert lines[1] == "['gs://bucket/photos/ant/a.jpg', 'gs://bucket/photos/bee/b.png']"
  assert lines[2].startswith('no weights file gs://bucket/none.npz: name a workdir')
  assert 'weights are read from .npz and .safetensors files' in lines[3]
  assert 'missing/M is out of reach (it is not there): copy gs://bucket/mirror/' in lines[4]
