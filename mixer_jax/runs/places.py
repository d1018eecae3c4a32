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
  return are_folders(one, other) or one.partition(':')[0] == other.partition(':')[0] != 'folder'


def are_folders(one: str, other: str) -> bool:
  """Return True if both are folders of images."""
  return one.startswith(_FOLDER) and other.startswith(_FOLDER)


def _canonical(name: str) -> str:
  prefix = _FOLDER if name.startswith(_FOLDER) else ''
  path = name.removeprefix(_FOLDER).removeprefix('file://')
  if is_remote(path):
    return prefix + path.rstrip('/')
  return prefix + os.path.realpath(os.path.expanduser(path))
