"""Tiny archives in the form of ImageNet-21k's."""

import io
import pathlib
import tarfile

import numpy as np

from tests.helpers.photos import encoded

CLASSES = ('n00004475', 'n00005787', 'n01440764', 'n13092987')
EACH = 30


def image(number: int, index: int) -> bytes:
  """Return a JPEG whose level encodes its class and index."""
  return encoded(np.full((8, 8, 3), 60 * number + 2 * index, np.uint8), quality=100)


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
  info = tarfile.TarInfo(name)
  info.size = len(data)
  tar.addfile(info, io.BytesIO(data))


def class_tar(number: int) -> bytes:
  buffer = io.BytesIO()
  with tarfile.open(fileobj=buffer, mode='w') as tar:
    for index in range(EACH):
      add(tar, f'{CLASSES[number]}_{index}.JPEG', image(number, index))
  return buffer.getvalue()


def put_archive(data_dir: pathlib.Path, *, unpacked: bool = False) -> pathlib.Path:
  """Write the archive, or its unpacked folder, where TFDS expects it; classes are not sorted."""
  manual = data_dir / 'downloads' / 'manual'
  manual.mkdir(parents=True)
  path = manual / ('fall11_whole' if unpacked else 'fall11_whole.tar')
  if unpacked:
    path.mkdir()
    for number in (2, 0, 3, 1):
      (path / f'{CLASSES[number]}.tar').write_bytes(class_tar(number))
  else:
    with tarfile.open(path, 'w') as tar:
      for number in (2, 0, 3, 1):
        add(tar, f'{CLASSES[number]}.tar', class_tar(number))
  return path
