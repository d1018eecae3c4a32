"""Compiled programs, kept between starts: JAX's persistent cache in the user's cache folder.

Whoever has chosen a folder for it (JAX_COMPILATION_CACHE_DIR; for a pod one that all hosts
share, such as gs://…, since only process 0 writes there) or none
(JAX_ENABLE_COMPILATION_CACHE=false) is left with that.
"""

import importlib.util
import logging
import os
import pathlib

import jax

from mixer_jax.errors import UserError
from mixer_jax.hardware import cpu_kind
from mixer_jax.paths import CACHE_SETTING, cache_folder

log = logging.getLogger(__name__)

SIZE_SETTING = 'MIXER_JAX_COMPILED_GIB'
"""GiB that compiled programs may take; the least recently used give way. 0: none are kept."""
_GIB = 4.0
_LEAST_SECONDS = 0.1  # that a program takes to compile: below, reading it is no faster


def keep() -> None:
  """From now on programs are looked for in the cache, and those that are compiled put there.

  Where that cannot be, it is said, and each is compiled.

  Raises:
    UserError: `SIZE_SETTING` is no size.
  """
  limit = _limit()
  if not limit or jax.config.jax_compilation_cache_dir:  # pyright: ignore[reportAttributeAccessIssue]
    return
  folder = cache_folder() / 'compiled' / cpu_kind()
  if importlib.util.find_spec('filelock') is None:
    log.warning('compiled programs are not kept: pip install filelock')
    return
  try:
    folder.mkdir(parents=True, exist_ok=True)
    _clear_leavings(folder)
  except OSError as error:
    reason = error.strerror or error
    log.warning('compiled programs are not kept (%s): %s names a folder', reason, CACHE_SETTING)
    return
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', limit)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)


def _limit() -> int:
  """Bytes; 0: nothing is kept."""
  text = os.environ.get(SIZE_SETTING) or str(_GIB)
  try:
    size = float(text)
    if not 0 <= size < 2**20:
      raise ValueError
  except ValueError:
    raise UserError(f'{SIZE_SETTING}={text}: give GiB, such as {_GIB}, or 0 for none') from None
  return int(size * 2**30)


def _clear_leavings(folder: pathlib.Path) -> None:
  """Takes away what processes left that were killed while they wrote.

  JAX writes an entry, then its time of use: one without is not whole, and JAX would neither
  read it nor write it anew, nor make room for others.

  Raises:
    OSError: this user may not write there.
  """
  import filelock

  with filelock.FileLock(folder / '.lockfile', timeout=10):  # JAX's own; Timeout is an OSError
    for entry in folder.glob('*-cache'):
      if not entry.with_name(entry.name.removesuffix('cache') + 'atime').exists():
        entry.unlink()
