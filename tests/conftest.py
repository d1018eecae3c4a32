"""Eight virtual CPU devices for every test, the prepared data set, and one trained run."""

import contextlib
import fcntl
import os
import pathlib
import random
from collections.abc import Iterator

os.environ['JAX_PLATFORMS'] = 'cpu'
os.environ['MIXER_JAX_COMPILED_GIB'] = '0'  # no test can use what another one compiled
os.environ['XLA_FLAGS'] = '--xla_force_host_platform_device_count=8'

import pytest

from mixer_jax import home
from tests.helpers import console


@contextlib.contextmanager
def _shared(tmp_path_factory, name: str) -> Iterator[pathlib.Path]:
  """A folder that all test processes share; one of them at a time is inside, by name."""
  root = tmp_path_factory.getbasetemp()
  if 'PYTEST_XDIST_WORKER' in os.environ:
    root = root.parent
  with (root / f'{name}.lock').open('w') as lock:
    fcntl.flock(lock, fcntl.LOCK_EX)
    yield root


@pytest.fixture(autouse=True)
def restored_logging():
  """Commands run in this process: their console does not outlive the test."""
  with console.restored_logging():
    yield


@pytest.fixture(autouse=True)
def warned_of_no_cache(monkeypatch):
  """Each test is told that the cache cannot be used, not only the first one of a process."""
  monkeypatch.setattr(home, '_warned', set())


@pytest.fixture
def rng(request) -> random.Random:
  """Random numbers that depend on the id of the test only."""
  return random.Random(request.node.nodeid)


@pytest.fixture(scope='session')
def digits_dir(tmp_path_factory) -> pathlib.Path:
  """A TFDS data_dir with `digits` prepared, one for all test processes."""
  from mixer_jax.data.catalog import open_source

  with _shared(tmp_path_factory, 'digits') as root:
    open_source('digits', 'test', str(root / 'tfds'))
    return root / 'tfds'


@pytest.fixture(scope='session')
def trained(tmp_path_factory, digits_dir) -> pathlib.Path:
  """The workdir of a finished run on `digits`, one for all test processes: read it only.

  A Mixer of two blocks, width 16; six steps with states and evaluations at 3 and 6, few-shot
  accuracy at 6.
  """
  from tests.helpers import train_runs
  from tests.helpers.console import restored_logging

  few = ('--config.fewshot.every=2', '--config.fewshot.shots=1,25', '--config.fewshot.seeds=2')
  with _shared(tmp_path_factory, 'trained') as root:
    done, workdir = root / 'trained.done', root / 'trained' / 'run'
    if not done.exists():
      with restored_logging():
        assert train_runs.train(workdir, digits_dir, '--config.model.num_blocks=2', *few) == 0
      done.touch()
    return workdir


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Programs are compiled once for all runs of a module."""
  import jax
  from jax.experimental.compilation_cache import compilation_cache

  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in zip(names, (str(tmp_path_factory.mktemp('compiled')), 0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # JAX has decided already that there is none
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
