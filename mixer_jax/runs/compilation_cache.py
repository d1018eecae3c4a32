"""JAX's persistent compilation cache, in the user's cache folder.

A folder that the user has chosen (JAX_COMPILATION_CACHE_DIR; for a pod one that all hosts share,
such as gs://…, since only process 0 writes there) or refused (JAX_ENABLE_COMPILATION_CACHE=false)
is respected. JAX never replaces an entry, so that damaged ones are removed here.
"""

import hashlib
import importlib.util
import logging
import os
import pathlib

import jax
from jax._src import compilation_cache  # what it does with a damaged entry cannot be configured
from jax._src.lru_cache import LRUCache

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
  _verify_entries()
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
  _verify_entries(with_digests=str(folder))
  jax.config.update('jax_compilation_cache_dir', str(folder))
  jax.config.update('jax_compilation_cache_max_size', limit)
  jax.config.update('jax_persistent_cache_min_compile_time_secs', _LEAST_SECONDS)


def _verify_entries(with_digests: str = '') -> None:
  """Let JAX use a `_VerifiedCache`; entries have digests in this folder alone."""

  def cache(path: str) -> tuple[LRUCache, str]:
    size = jax.config.jax_compilation_cache_max_size  # pyright: ignore[reportAttributeAccessIssue]
    return _VerifiedCache(path, max_size=size, has_digests=path == with_digests), path

  compilation_cache.get_file_cache = cache


class _VerifiedCache(LRUCache):
  """JAX's cache, without the entries that are damaged."""

  def __init__(self, path: str, *, max_size: int, has_digests: bool):
    super().__init__(path, max_size=max_size)
    self._has_digests = has_digests

  def get(self, key: str) -> bytes | None:
    """Return an intact entry, or None: then the program is compiled and put again."""
    value = super().get(key)
    if value is None:
      return None
    program, digest = (value[:-32], value[-32:]) if self._has_digests else (value, b'')
    try:
      if digest and hashlib.sha256(program).digest() != digest:
        raise ValueError
      compilation_cache.decompress_executable(program)
    except Exception:  # each of the possible formats has its own errors
      self._remove(key)
      return None
    return program

  def put(self, key: str, value: bytes) -> None:
    """Add an entry, unless the disk refuses."""
    try:
      super().put(key, value + hashlib.sha256(value).digest() if self._has_digests else value)
    except OSError as error:
      log.warning('a compiled program is not kept: %s', error.strerror or error)
      self._remove(key)

  def _remove(self, key: str) -> None:
    for kind in ('cache', 'atime'):
      (self.path / f'{key}-{kind}').unlink(missing_ok=True)


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
