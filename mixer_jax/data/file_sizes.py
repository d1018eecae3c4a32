"""Sizes of many files at once."""

import concurrent.futures
import os
from collections.abc import Sequence

from mixer_jax.paths import is_remote
from mixer_jax.storage import read_retried

_THREADS = 16
"""They mostly wait for a network file system."""


def file_sizes(root, names: Sequence[str]) -> dict[str, int | None]:
  """Return name -> bytes of files below `root`; None for a bucket, which takes a request for each.

  Raises:
    StorageError: a size cannot be read now.
  """
  if is_remote(root):
    return dict.fromkeys(names)

  def sizes(part: Sequence[str]) -> list[int]:
    return [_size(f'{root}/{name}') for name in part]

  parts = [names[start::_THREADS] for start in range(_THREADS)]
  with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    found = list(pool.map(sizes, parts))
  return {name: found[i % _THREADS][i // _THREADS] for i, name in enumerate(names)}


def _size(path: str) -> int:
  try:
    return os.stat(path).st_size
  except FileNotFoundError:
    return -1  # it was removed after its folder was listed
  except OSError:
    return read_retried(path, lambda: os.stat(path)).st_size
