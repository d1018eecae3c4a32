"""Image files in folders, local or in a bucket: one folder per class, or single files."""

import glob
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

from etils import epath

from mixer_jax.data.file_sizes import file_sizes
from mixer_jax.data.source import Record, Source
from mixer_jax.data.splits import ranges
from mixer_jax.errors import UserError
from mixer_jax.paths import is_regular, is_remote, user_path

log = logging.getLogger(__name__)

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


class Files(Sequence):
  """Records of image files, each read on access."""

  def __init__(self, files: Sequence[epath.Path], labels: Sequence[int], root=''):
    self._files, self._labels, self._root = files, labels, root

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: SupportsIndex) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
    index = index.__index__()
    try:
      data = self._files[index].read_bytes()
    except OSError:
      data = b''  # reported and left out like an image that does not decode
    return {'image': data, 'label': self._labels[index], 'file_name': str(self._files[index])}

  def sizes(self) -> dict[str, int | None]:
    """Return file below the root -> bytes; None in a bucket, which takes a request for each."""
    return file_sizes(self._root, [str(path.relative_to(self._root)) for path in self._files])


def class_folders(folder: str) -> list[str]:
  """Return the names of the folders in a folder, in the order of class numbers."""
  root = user_path(folder)
  if not root.is_dir():
    raise UserError(f'no folder {folder}: folder:DIR needs a folder with one folder per class')
  names = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != '.']
  return sorted(names, key=int if are_numbers(names) else str)


def open_folder(folder: str, split: str = '') -> Source:
  """Open the images of a folder that has one folder per class.

  Classes are numbered in the order of their names, or by value if all names are integers.

  A folder is a single split: 'train', 'test' and '' all mean all of it. For slices, such as
  'train[:99%]', images are first ordered by the hash of their path below `folder`. 'train[99%:]'
  is therefore a held-out part of all classes, the same wherever the folder is, and adding or
  removing an image moves few others between parts.

  Raises:
    UserError: no such folder, no class folder with an image, or no such slice.
  """
  root = user_path(folder)
  classes, files, labels = [], [], []
  for name in class_folders(folder):
    found = list(_images_in(root / name, frozenset({_place(root)})))
    if found:
      labels += [len(classes)] * len(found)
      files += found
      classes.append(name)
  if not files:
    raise UserError(
      f'no images in {folder}: it needs one folder per class with {", ".join(SUFFIXES)} files'
    )
  if '[' not in split:
    return Source(f'folder:{folder}', tuple(classes), Files(files, labels, root))
  order = sorted(range(len(files)), key=lambda i: _hash(files[i].relative_to(root)))
  kept = [order[i] for part in ranges(split, len(files), f'folder:{folder}') for i in range(*part)]
  if not kept:
    raise UserError(f'split {split!r} of folder:{folder} is empty: it has {len(files)} images')
  records = Files([files[i] for i in kept], [labels[i] for i in kept], root)
  return Source(f'folder:{folder}/{split}', tuple(classes), records)


def _hash(name: epath.Path) -> bytes:
  return hashlib.sha256(name.as_posix().encode(errors='surrogateescape')).digest()


def are_numbers(names: Sequence[str]) -> bool:
  """Return True if all names are integers and no two are equal."""
  return all(n.isdecimal() for n in names) and len({int(n) for n in names}) == len(names)


def find_images(names: Iterable[str]) -> list[epath.Path]:
  """Return the files of names that are files, folders or patterns, each once.

  Raises:
    UserError: there is nothing for some of the names; all of these are listed.
  """
  files: list[epath.Path] = []
  faults = []
  for name in names:
    path = user_path(name)
    if path.is_dir():
      below = list(_images_in(path))
      faults += [] if below else [f'no images in {name}']
      files += below
    elif path.exists():
      faults += [] if is_regular(path) else [f'{name} is not a regular file']
      files.append(path)
    elif glob.has_magic(name):
      matches = _matches(path)
      faults += [] if matches else [f'nothing matches {name}']
      files += matches
    else:
      faults.append(f'no file {name}')
  if faults:
    raise UserError('; '.join(faults))
  return list(dict.fromkeys(files))


def _matches(pattern: epath.Path) -> list[epath.Path]:
  if not is_remote(pattern):
    found = [epath.Path(name) for name in glob.glob(str(pattern), recursive=True)]
  else:
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found = list(epath.Path(*parts[:fixed]).glob('/'.join(parts[fixed:])))
  return sorted(path for path in found if is_regular(path))


def _place(folder: epath.Path) -> str:
  return str(folder) if is_remote(folder) else os.path.realpath(folder)


def _images_in(folder: epath.Path, above: frozenset[str] = frozenset()) -> Iterator[epath.Path]:
  """Yield image files below a folder by name; links to a folder above are not followed."""
  place = _place(folder)
  if place in above:
    log.warning('%s links to a folder above it and is not followed', folder)
    return
  for entry in sorted(folder.iterdir()):
    if entry.name.startswith('.'):
      continue
    if entry.suffix.lower() in SUFFIXES and is_regular(entry):
      yield entry
    elif entry.is_dir():
      yield from _images_in(entry, above | {place})
