"""The user's home: the cache, and the default folder of data sets.

A container may run as a user without a home directory, or with one that cannot be written. Then
nothing is kept between starts; this is logged once, and the command continues.
"""

import errno
import logging
import os
import pathlib
import re
import tempfile

from mixer_jax.errors import UserError, one_line

log = logging.getLogger(__name__)

CACHE_SETTING = 'MIXER_JAX_CACHE'
"""Variable that names the cache folder; default: mixer_jax in $XDG_CACHE_HOME or ~/.cache."""

_warned: set[str] = set()


def cache_folder() -> pathlib.Path:
  """Return the folder of downloaded files and computed plans; it may not exist yet.

  Raises:
    FileNotFoundError: this user has no home directory, and no variable names a folder.
    UserError: the variable names a bucket.
  """
  default = pathlib.Path(os.environ.get('XDG_CACHE_HOME') or '~/.cache') / 'mixer_jax'
  chosen = re.sub('^file:(//|(?=/[^/]))', '', os.environ.get(CACHE_SETTING) or str(default))
  if re.match('[a-z][a-z0-9]+:', chosen):  # also of an address that lost a slash
    raise UserError(f'{CACHE_SETTING}={chosen}: name a folder of this machine')
  return expanded(pathlib.Path(chosen))


def expanded(path: pathlib.Path) -> pathlib.Path:
  """Return a path with its `~` replaced.

  Raises:
    FileNotFoundError: this user has no home directory.
  """
  try:
    return path.expanduser()
  except RuntimeError:
    raise FileNotFoundError(errno.ENOENT, 'no home directory', str(path)) from None


def warn_uncached(what: str, error: Exception) -> None:
  """Log that the cache cannot be used; once per process for the same reason."""
  reason = getattr(error, 'strerror', None) or one_line(error)
  if reason not in _warned:
    _warned.add(reason)
    log.warning('%s are not kept (%s): %s names a folder', what, reason, CACHE_SETTING)


def choose_data_folder() -> None:
  """Set TFDS_DATA_DIR to a temporary folder if TFDS's default folder can be neither read nor made.

  TFDS reads the variable when it is imported, and fails without a home directory.
  """
  if os.environ.get('TFDS_DATA_DIR'):
    return
  home = os.path.expanduser('~')
  if home == '~' or not (os.path.isdir(f'{home}/tensorflow_datasets') or os.access(home, os.W_OK)):
    place = f'{tempfile.gettempdir()}/mixer_jax-{os.getuid()}/tensorflow_datasets'
    os.environ['TFDS_DATA_DIR'] = place
