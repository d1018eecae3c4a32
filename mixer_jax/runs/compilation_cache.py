"""JAX's persistent compilation cache, in the user's cache folder.

A folder that the user has chosen (JAX_COMPILATION_CACHE_DIR; for a pod one that all hosts share,
such as gs://…, since only process 0 writes there) or refused (JAX_ENABLE_COMPILATION_CACHE=false)
is respected.
"""

import importlib.util
import logging
import os
import pathlib

import jax

from mixer_jax.errors import UserError
from mixer_jax.hardware import cpu_kind
from mixer_jax.home import cache_folder, warn_uncached

log = logging.getLogger(__name__)

SIZE_SETTING = 'MIXER_JAX_COMPILED_GIB'
"""GiB that compiled programs may take; the least recently used are evicted. 0: no cache."""
_GIB = 4.0
_LEAST_SECONDS = 0.1  # of compilation; reading a program that compiles faster saves nothing


def enable() -> None:
  """Enables the cache for all programs compiled from now on; logs a warning if it cannot be used.

  Raises:
    UserError: `SIZE_SETTING` is not a size.
  """
  limit = _limit()
  if not limit or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
    return
  if importlib.util.find_spec('filelock') is None:
    log.warning('compiled programs are not kept: pip install filelock')
    return
  try:
    folder = cache_folder() / 'compiled' / cpu_kind()
    folder.mkdir(parents=True, exist_ok=True)
    _remove_incomplete(folder)
  except OSError as error:
    warn_uncached('compiled programs', error)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', limit)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)


def _limit() -> int:
  """Return the size limit in bytes; 0: no cache."""
  text = os.environ.get(SIZE_SETTING) or str(_GIB)
  try:
    size = float(text)
    if not 0 <= size < 2**20:
      raise ValueError
  except ValueError:
    raise UserError(f'{SIZE_SETTING}={text}: give GiB, such as {_GIB}, or 0 for none') from None
  return int(size * 2**30)


def _remove_incomplete(folder: pathlib.Path) -> None:
  """Removes entries of processes that were killed while they wrote.

  JAX writes an entry, then its time of use. An entry without one is incomplete, and JAX would
  neither read it, nor write it again, nor evict it.

  Raises:
    OSError: this user may not write there.
  """
  import filelock

  with filelock.FileLock(folder / '.lockfile', timeout=10):  # JAX's own; Timeout is an OSError
    for entry in folder.glob('*-cache'):
      if not entry.with_name(entry.name.removesuffix('cache') + 'atime').exists():
        entry.unlink()
