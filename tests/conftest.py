"""Eight virtual CPU devices for every test, and the prepared data set."""

import fcntl
import os
import pathlib

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['MIXER_JAX_COMPILED_GIB'] = '0'  # what one test has compiled is of no use to another
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import pytest


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory) -> pathlib.Path:
  """A TFDS data_dir with `digits` prepared, one for all test processes."""
  from mixer_jax.data.catalog import open_source

  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent
  with (root / 'digits.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    open_source('digits', 'test', str(root / 'tfds'))
  return root / 'tfds'
