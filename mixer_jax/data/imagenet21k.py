"""`imagenet21k`: ImageNet's fall-2011 release, which TFDS does not have, as a TFDS builder.

The release is one archive with a tar of JPEGs for each of 21,843 classes; it must be downloaded by
hand. Preparing it needs TensorFlow, reading does not.

TFDS orders the images by the hashes of their names. This order is the same for any form of the
archive and mixes the classes, so `train[:99%]` and `train[99%:]` are a fixed part to train on and
a fixed held-out part.
"""

import contextlib
import io
import os
import pathlib
import re
import shutil
import tarfile
from collections.abc import Iterator
from typing import IO

import tensorflow_datasets as tfds

NUM_CLASSES = 21_843
"""WordNet ids of the fall-2011 release, the classes of the paper's networks."""

ARCHIVE = 'fall11_whole.tar'

_CLASS_FILE = re.compile(r'(n\d{8})\.tar')


class Imagenet21k(tfds.core.GeneratorBasedBuilder):
  """JPEGs unchanged from the archive; classes are the sorted WordNet ids; one split, `train`.

  Args:
    num_classes: number of classes that the archive must have; other releases have others.
    **kwargs: arguments of any TFDS builder.
  """

  VERSION = tfds.core.Version('1.0.0')
  MANUAL_DOWNLOAD_INSTRUCTIONS = (
    f'put {ARCHIVE} of image-net.org there, or unpack it: a folder '
    f'{ARCHIVE.removesuffix(".tar")} with n????????.tar for each class'
  )

  def __init__(self, *, num_classes: int = NUM_CLASSES, **kwargs):
    self._num_classes = num_classes
    super().__init__(**kwargs)

  def _info(self) -> tfds.core.DatasetInfo:
    return tfds.core.DatasetInfo(
      builder=self,
      description='ImageNet, fall-2011 release: WordNet ids and their images.',
      homepage='https://image-net.org',
      features=tfds.features.FeaturesDict(
        {
          'image': tfds.features.Image(encoding_format='jpeg'),
          # The ids are read from the archive and then stored with the data set.
          'label': tfds.features.ClassLabel(),
          'file_name': tfds.features.Text(),
        }
      ),
      supervised_keys=('image', 'label'),
    )

  def _split_generators(self, dl_manager):
    archive = _Archive(pathlib.Path(dl_manager.manual_dir))
    if len(archive.classes) != self._num_classes:
      raise ValueError(
        f'{archive.path} has {len(archive.classes):,} classes, not {self._num_classes:,}: is it '
        'complete? For another release, pass their number as --classes'
      )
    # Everything is written twice, but the first copy is removed while it is read.
    place = self.data_path.parent
    free = shutil.disk_usage(place).free
    if free < archive.size:
      raise OSError(
        f'{place} needs room for {archive.size / 2**30:,.1f} GiB, and {free / 2**30:,.1f} GiB '
        'are free'
      )
    self.info.features['label'].names = archive.classes
    return {'train': self._generate_examples(archive)}

  def _generate_examples(self, archive: '_Archive'):
    for wordnet_id, name, image in archive.images():
      # The key contains the class, since two classes may have a file of the same name.
      example = {'image': io.BytesIO(image), 'label': wordnet_id, 'file_name': name}
      yield f'{wordnet_id}/{name}', example


class _Archive:
  """One tar per class, in a tar or in a folder.

  Raises:
    FileNotFoundError: `manual` has neither.
    ValueError: a tar is damaged.
  """

  def __init__(self, manual: pathlib.Path):
    archive, folder = manual / ARCHIVE, manual / ARCHIVE.removesuffix('.tar')
    if archive.is_file():
      self.path, self.size = archive, archive.stat().st_size
      with _naming(archive), tarfile.open(archive) as tar:
        found = tar.getnames()
    elif folder.is_dir():
      paths = list(folder.rglob('n*.tar'))
      self.path, self.size = folder, sum(path.stat().st_size for path in paths)
      found = [os.fspath(path) for path in paths]
    else:
      raise FileNotFoundError(
        f'there is no {ARCHIVE} in {manual}: {Imagenet21k.MANUAL_DOWNLOAD_INSTRUCTIONS}'
      )
    by_class = {match[1]: name for name in found if (match := _match(name))}
    self._names = dict(sorted(by_class.items()))
    self.classes = list(self._names)

  def images(self) -> Iterator[tuple[str, str, bytes]]:
    """Yield (WordNet id, file name, encoded image), class by class."""
    if self.path.is_dir():
      for wordnet_id, name in self._names.items():
        with open(name, 'rb') as file:
          yield from self._images_of(wordnet_id, file)
      return
    with tarfile.open(self.path) as archive:
      for wordnet_id, name in self._names.items():
        file = archive.extractfile(name)
        assert file is not None
        yield from self._images_of(wordnet_id, file)

  def _images_of(self, wordnet_id: str, file: IO[bytes]) -> Iterator[tuple[str, str, bytes]]:
    with _naming(self.path / f'{wordnet_id}.tar'), tarfile.open(fileobj=file) as tar:
      for member in tar:
        image = tar.extractfile(member)
        if image is not None:  # None: a folder
          yield wordnet_id, os.path.basename(member.name), image.read()


@contextlib.contextmanager
def _naming(path: pathlib.Path) -> Iterator[None]:
  try:
    yield
  except tarfile.TarError as error:
    raise ValueError(f'{path} is damaged or not a tar ({error}): download it again') from error


def _match(name: str) -> re.Match[str] | None:
  return _CLASS_FILE.fullmatch(os.path.basename(name))
