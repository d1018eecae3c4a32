"""Commands run in this process: their console must not outlive the test."""

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from tests.helpers import console


@pytest.fixture(autouse=True)
def restored_logging():
  """Puts the root logger back as it was."""
  with console.restored_logging():
    yield


@pytest.fixture(scope='module')
def compiled(tmp_path_factory):
  """Programs are compiled once for all commands of a module."""
  names = ('jax_compilation_cache_dir', 'jax_persistent_cache_min_compile_time_secs')
  before = {name: getattr(jax.config, name) for name in names}
  for name, value in zip(names, (str(tmp_path_factory.mktemp('compiled')), 0), strict=True):
    jax.config.update(name, value)
  compilation_cache.reset_cache()  # JAX has decided already that there is none
  yield
  for name, value in before.items():
    jax.config.update(name, value)
  compilation_cache.reset_cache()
