"""Names of data sets and checkpoints in a config that may be spelled in several ways.

A run's identity is its content. `folder:/a` and `folder:/a/` are the same place, and `folder:/b`
may hold the same images.
"""

import os

from mixer_jax.paths import is_remote

_FOLDER = 'folder:'


def is_same_place(one: str, other: str) -> bool:
  """Return True if two names are spellings of one: a trailing slash, `file://`, links, '..'."""
  return _canonical(one) == _canonical(other)


def may_be_same_data(one: str, other: str) -> bool:
  """Return True if only their content can show whether two names of data sets mean the same.

  That is so for two folders, and for a data set with and without its version.
  """
  folders = {name.startswith(_FOLDER) for name in (one, other)}
  if len(folders) > 1:
    return False
  return folders == {True} or one.partition(':')[0] == other.partition(':')[0]


def _canonical(name: str) -> str:
  prefix = _FOLDER if name.startswith(_FOLDER) else ''
  path = name.removeprefix(_FOLDER).removeprefix('file://')
  if is_remote(path):
    return prefix + path.rstrip('/')
  return prefix + os.path.realpath(os.path.expanduser(path))
