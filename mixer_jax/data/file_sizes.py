"""Sizes of many files at once."""

import concurrent.futures
import os
from collections.abc import Iterable, Sequence

from mixer_jax.paths import is_remote
from mixer_jax.storage import read_retried

_THREADS = 16
"""They mostly wait for a network file system."""
_PART = 1000  # files per step of the progress


def file_sizes(root, names: Iterable[str]) -> dict[str, int | None]:
  """Return name -> bytes of files below `root`; None for a bucket, which takes a request for each.

  Raises:
    StorageError: a size cannot be read now.
  """
  from tqdm import tqdm

  if is_remote(root):
    return dict.fromkeys(names)

  def sizes(part: Sequence[str]) -> list[int]:
    return [_size(f'{root}/{name}') for name in part]

  names = list(names)
  parts = [names[start : start + _PART] for start in range(0, len(names), _PART)]
  found: dict[str, int | None] = {}
  # disable=None: no bar unless the output is a terminal; delay: none within the first second.
  bar = tqdm(
    total=len(names), unit=' files', unit_scale=True, desc=f'sizes in {root}', disable=None, delay=1
  )
  with bar, concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
    for part, those in zip(parts, pool.map(sizes, parts), strict=True):
      found.update(zip(part, those, strict=True))
      bar.update(len(part))
  return found


def _size(path: str) -> int:
  try:
    return os.stat(path).st_size
  except FileNotFoundError:
    return -1  # it was removed after its folder was listed
  except OSError:
    return read_retried(path, lambda: os.stat(path)).st_size
