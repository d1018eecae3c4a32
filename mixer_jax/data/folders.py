"""Image files in folders, local or in a bucket: a folder a class, or just files."""

import glob
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import SupportsIndex

from etils import epath

from mixer_jax.data.source import Record, Source
from mixer_jax.data.splits import ranges
from mixer_jax.errors import UserError
from mixer_jax.paths import is_regular, user_path

log = logging.getLogger(__name__)

SUFFIXES = ('.jpg', '.jpeg', '.png', '.webp')


class Files(Sequence):
  """Records of image files: each is read when it is asked for."""

  def __init__(self, files: Sequence[epath.Path], labels: Sequence[int]):
    self._files, self._labels = files, labels

  def __len__(self) -> int:
    return len(self._files)

  def __getitem__(self, index: SupportsIndex) -> Record:  # pyright: ignore[reportIncompatibleMethodOverride]
    index = index.__index__()
    try:
      data = self._files[index].read_bytes()
    except OSError:
      data = b''  # no image: it is named and left out like one that does not decode
    return {'image': data, 'label': self._labels[index], 'file_name': str(self._files[index])}


def class_folders(folder: str) -> list[str]:
  """Names of the folders in a folder, in the order that numbers classes; they may be empty."""
  root = user_path(folder)
  if not root.is_dir():
    raise UserError(f'no folder {folder}: folder:DIR names one with a folder for each class')
  names = [entry.name for entry in root.iterdir() if entry.is_dir() and entry.name[0] != '.']
  return sorted(names, key=int if are_numbers(names) else str)


def open_folder(folder: str, split: str = '') -> Source:
  """The images of a folder that has a folder for each class.

  Classes are numbered in the order of their names; where all are whole numbers, in theirs.

  A folder is one split, whatever it is called: 'train', 'test' and '' are all of it. With slices,
  as in 'train[:99%]', it is first brought into the order of hashes of the names below `folder`. So
  'train[99%:]' is a part held out from all classes, the same wherever the folder lies; and
  an image more or less moves few others across the border.

  Raises:
    UserError: no such folder, no class folder with an image in it, or no such slice.
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
      f'no images in {folder}: it has no folder for each class with {", ".join(SUFFIXES)} files'
    )
  if '[' not in split:
    return Source(f'folder:{folder}', tuple(classes), Files(files, labels))
  order = sorted(range(len(files)), key=lambda i: _hash(files[i].relative_to(root)))
  kept = [order[i] for part in ranges(split, len(files), f'folder:{folder}') for i in range(*part)]
  if not kept:
    raise UserError(f'split {split!r} of folder:{folder} is empty: it has {len(files)} images')
  records = Files([files[i] for i in kept], [labels[i] for i in kept])
  return Source(f'folder:{folder}/{split}', tuple(classes), records)


def _hash(name: epath.Path) -> bytes:
  return hashlib.sha256(name.as_posix().encode(errors='surrogateescape')).digest()


def are_numbers(names: Sequence[str]) -> bool:
  """Whether all of these names are whole numbers, each another one."""
  return all(n.isdecimal() for n in names) and len({int(n) for n in names}) == len(names)


def find_images(names: Iterable[str]) -> list[epath.Path]:
  """Files: those named, those below a folder that is named, and those that a pattern finds; once.

  Raises:
    UserError: nothing is there under a name; all such names are listed.
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
      faults += [] if is_regular(path) else [f'{name} is no regular file']
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
  if '://' not in str(pattern):
    found = [epath.Path(name) for name in glob.glob(str(pattern), recursive=True)]
  else:
    parts = pattern.parts
    fixed = next(i for i, part in enumerate(parts) if glob.has_magic(part))
    found = list(epath.Path(*parts[:fixed]).glob('/'.join(parts[fixed:])))
  return sorted(path for path in found if is_regular(path))


def _place(folder: epath.Path) -> str:
  return str(folder) if '://' in str(folder) else os.path.realpath(folder)


def _images_in(folder: epath.Path, above: frozenset[str] = frozenset()) -> Iterator[epath.Path]:
  """Image files below a folder, in the order of their names. A link to what is above is no way."""
  place = _place(folder)
  if place in above:
    log.warning('%s leads back to a folder above it: not followed', folder)
    return
  for entry in sorted(folder.iterdir()):
    if entry.name.startswith('.'):
      continue
    if entry.suffix.lower() in SUFFIXES and is_regular(entry):
      yield entry
    elif entry.is_dir():
      yield from _images_in(entry, above | {place})
