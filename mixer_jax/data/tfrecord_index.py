"""Index of the records of TFRecord files, built once and kept in the cache folder.

The folder of the data set may be shared and read-only. The file of an index is mapped into memory,
so that all processes share it: ImageNet-21k has 14 million records, 112 MB.
"""

import concurrent.futures
import dataclasses
import hashlib
import logging
import mmap
import os
import pathlib
import struct
import zipfile
from collections.abc import Mapping
from typing import IO

import numpy as np

from mixer_jax.data.tfrecord_files import Shard, Stamp, scan, stamp_of
from mixer_jax.errors import StorageError
from mixer_jax.home import cache_folder, warn_uncached
from mixer_jax.paths import open_whole

log = logging.getLogger(__name__)

_VERSION = 1
_SCANNERS = 16
"""Threads that search for records; they mostly wait for a disk or a network."""
_CHUNK = 2**20


@dataclasses.dataclass(frozen=True)
class Index:
  """Positions of the records of several files.

  Attributes:
    shards: path -> positions.
    is_kept: they are in the cache folder, where another process finds them.
  """

  shards: Mapping[str, Shard]
  is_kept: bool


def index(files: Mapping[str, int], name: str, stamps: Mapping[str, Stamp] | None = None) -> Index:
  """Return the positions of records; files that are missing or stale in the cache are scanned.

  Args:
    files: path -> expected number of records; all in one folder.
    name: data set, for messages.
    stamps: path -> stamp, if these are known.

  Raises:
    UserError: a file is missing or damaged.
    StorageError: a file cannot be read now.
  """
  from tqdm import tqdm

  folder = os.path.dirname(next(iter(files), ''))
  stored = load(folder)
  with concurrent.futures.ThreadPoolExecutor(_SCANNERS) as pool:
    stamps = stamps or dict(zip(files, pool.map(stamp_of, files), strict=True))
    shards = _fresh(stored, files, stamps)
    stale = [path for path in files if path not in shards]
    if not stale:
      return Index(shards, True)
    log.info('data set %s: indexing %d TFRecord files in %s', name, len(stale), folder)
    # disable=None: no bar unless the output is a terminal; delay: none within the first second.
    bar = tqdm(
      total=sum(files[path] for path in stale),
      unit=' records',
      unit_scale=True,
      desc=f'indexing {name}',
      disable=None,
      delay=1,
    )
    with bar:
      counts = [files[path] for path in stale]
      for path, shard in zip(stale, pool.map(scan, stale, counts), strict=True):
        shards[path] = shard
        bar.update(len(shard.bounds) - 1)
  found = {os.path.basename(path): shard for path, shard in shards.items()}
  _store(folder, {**stored, **found})
  kept = _fresh(load(folder), files, {path: shard.stamp for path, shard in shards.items()})
  return Index(kept, True) if len(kept) == len(shards) else Index(shards, False)


def _fresh(
  stored: Mapping[str, Shard], files: Mapping[str, int], stamps: Mapping[str, Stamp]
) -> dict[str, Shard]:
  """Return path -> shard of the files that are as they were when they were scanned."""
  fresh = {}
  for path, examples in files.items():
    shard = stored.get(os.path.basename(path))
    if shard and shard.stamp == stamps[path] and len(shard.bounds) == examples + 1:
      fresh[path] = shard
  return fresh


def _file_of(folder: str) -> pathlib.Path:
  """Return the index file of the data set in `folder`."""
  digest = hashlib.sha256(os.path.realpath(folder).encode(errors='surrogateescape')).hexdigest()
  return cache_folder() / 'tfrecords' / f'{digest[:32]}.npz'


def load(folder: str) -> dict[str, Shard]:
  """Return file name -> shard of the stored index; empty if there is none or it does not load."""
  try:
    with _file_of(folder).open('rb') as file, np.load(file) as arrays:
      if arrays['version'] != _VERSION:
        return {}
      names, stamps = arrays['names'].tolist(), arrays['stamps'].tolist()
      bounds = np.split(_mapped(file, arrays.zip, 'bounds.npy'), np.cumsum(arrays['lengths'])[:-1])
      return {
        name: Shard((size, changed), part)
        for name, (size, changed), part in zip(names, stamps, bounds, strict=True)
      }
  except Exception:  # zipfile and NumPy raise many kinds; the index is built again
    return {}


def _mapped(file: IO[bytes], archive: zipfile.ZipFile, name: str) -> np.ndarray:
  """Return an array of an .npz file without a copy, after its checksum was compared."""
  member = archive.getinfo(name)
  if member.compress_type != zipfile.ZIP_STORED:
    raise ValueError(f'{name} is compressed')
  with archive.open(member) as content:
    np.lib.format.read_magic(content)
    (count,), _, dtype = np.lib.format.read_array_header_1_0(content)
    in_header = content.tell()
    while content.read(_CHUNK):
      pass
  file.seek(member.header_offset)
  # A local header of a zip file: 26 bytes, two lengths, then name and extra field of these lengths.
  lengths = struct.unpack('<26xHH', file.read(30))
  memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
  return np.frombuffer(memory, dtype, count, member.header_offset + 30 + sum(lengths) + in_header)


def _store(folder: str, shards: Mapping[str, Shard]) -> None:
  """Write the index. If several processes do, the last one wins; each writes a complete one."""
  try:
    # Files that no longer exist, for example of another number of shards, are dropped.
    existing = set(os.listdir(folder))
    shards = {name: shard for name, shard in sorted(shards.items()) if name in existing}
    path = _file_of(folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    with open_whole(path) as file:
      np.savez(
        file,
        version=np.int64(_VERSION),
        names=np.array(list(shards)),
        stamps=np.array([shard.stamp for shard in shards.values()], np.int64),
        lengths=np.array([len(shard.bounds) for shard in shards.values()], np.int64),
        bounds=np.concatenate([shard.bounds for shard in shards.values()]),
      )
  except (OSError, StorageError) as error:
    warn_uncached('indices of data sets', error)
