"""A data set by name -> random access to its records, images still encoded."""

import difflib
import logging
import os
from collections.abc import Callable, Sequence
from typing import SupportsIndex

from mixer_jax.data import examples, tfrecords
from mixer_jax.data.folders import open_folder
from mixer_jax.data.prepare import OWN, own_builder, prepare
from mixer_jax.data.records import Source
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)


def open_source(name: str, split: str, data_dir: str = '') -> Source:
  """The records of `split` of the data set `name`.

  Args:
    name: a TFDS name ('cifar10', 'imagenet2012:5.1.0', …); 'digits', the embedded
      one, which is prepared on first use; 'imagenet21k'; or 'folder:DIR', with a folder a class.
    split: TFDS slicing: 'train', 'train[:99%]', 'test[100:200]'. Of a folder only the slice
      matters, see `open_folder`.
    data_dir: folder where TFDS keeps prepared data sets; '' is its own default.

  Raises:
    UserError: no such data set or split, or it is prepared in a way that cannot be read
      at random: array_record and TFRecord can.
  """
  if name.startswith('folder:'):
    return open_folder(name.removeprefix('folder:'), split)
  if '://' in name or os.path.isdir(name):
    raise UserError(f'data set {name!r}: to take a folder of images, write folder:{name}')
  import tensorflow_datasets as tfds  # takes a second, without TensorFlow

  check_place(data_dir)
  builder = prepared_builder(name, data_dir)
  features = builder.info.features
  # ImageNet ReaL has the label of old, and a list of those that are right.
  key = 'original_label' if features is not None and 'original_label' in features else 'label'
  accepted = 'real_label' if features is not None and 'real_label' in features else None
  if features is None or not {'image', key} <= set(features):
    raise UserError(f'data set {name} is not one of images with one label each')
  label = features[key]
  if not isinstance(label, tfds.features.ClassLabel) or label.num_classes is None:
    raise UserError(f'data set {name}: its labels are not classes')
  if not split:
    raise UserError(f'data set {name}: no split was named; it has {_known_splits(builder)}')
  try:
    size = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise UserError(
      f'data set {name} has no split {split!r}: it has {_known_splits(builder)}, '
      "sliced as in 'train[:99%]'"
    ) from error
  if size <= 0:
    raise UserError(f'split {split!r} of data set {name} is empty')
  records = random_access(builder, name, split)
  source = Source(f'{name}/{split}', tuple(label.names), records, key, accepted)
  try:
    for index in (0, size - 1):
      source[index]
  except UserError:
    raise
  except Exception as error:  # whatever array_record and TFDS raise
    raise damaged(name, builder.data_dir, error) from error
  return source


def random_access(builder, name: str, split: str) -> Sequence:
  """The records of a prepared data set, images still encoded."""
  import tensorflow_datasets as tfds

  parse = examples.parser(builder.info.features)
  try:
    raw = builder.as_data_source(
      split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
    )
    return _ArrayRecords(raw, parse, name, builder.data_dir)
  except (NotImplementedError, ValueError) as error:
    if builder.info.file_format is not tfds.core.FileFormat.TFRECORD:
      raise UserError(
        f'data set {name} in {builder.data_dir} is stored as {builder.info.file_format}: prepare '
        f'it for random access with `mixer-jax data prepare {name}`'
      ) from error
  # TFDS itself reads these from beginning to end, with TensorFlow. The parts are its own as well:
  # those that it hands to array_record.
  parts = [
    tfrecords.Part(os.fspath(part.filename), part.skip, part.take, part.examples_in_shard)
    for part in builder.info.splits[split].file_instructions
  ]
  return tfrecords.TFRecords(parts, parse, name)


class _ArrayRecords(Sequence):
  """TFDS's own reader; but a file that is damaged, cut off or gone is named with the way out."""

  def __init__(self, records: Sequence, parse: Callable, name: str, folder: os.PathLike | str):
    self._records, self._parse, self._name, self._folder = records, parse, name, folder

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    try:
      data = self._records[index.__index__()]
    except RuntimeError as error:
      # The rest, such as a network that fails, may be gone when the run starts again.
      if any(sign in str(error) for sign in _LASTING):
        raise damaged(self._name, self._folder, error) from error
      raise
    return self._parse(data)


_LASTING = ('Riegeli/records file', 'ArrayRecord file should be', 'No such file')
"""What array_record's errors say where reading again is of no use."""


def check_place(data_dir: str) -> None:
  """Raises `UserError` where prepared data sets cannot be read from (or written to) directly."""
  place = data_dir or os.environ.get('TFDS_DATA_DIR', '')
  if '://' in place:
    raise UserError(
      f'data sets are not read from {place} directly: mount the bucket with gcsfuse, or copy the '
      'data set to a disk, and name that folder as the data_dir'
    )


def check_name(name: str) -> None:
  """Raises `UserError` unless TFDS or this package has a data set of this name."""
  import tensorflow_datasets as tfds

  known = tfds.list_builders(with_community_datasets=False)
  if name not in OWN and name.split(':')[0].split('/')[0] not in known:
    raise _unknown(name)


def class_ids(name: str) -> tuple[str, ...]:
  """Class names of a TFDS data set as it stores them (ImageNet's are WordNet ids), unprepared.

  Raises:
    UserError: there is no such data set, or its labels are not classes.
  """
  import tensorflow_datasets as tfds

  if name == 'digits':
    return tuple(str(digit) for digit in range(10))
  check_name(name)
  try:
    return tuple(tfds.builder(name, try_gcs=False).info.features['label'].names)
  except (KeyError, TypeError, AttributeError, ValueError, ImportError) as error:
    raise UserError(f'data set {name} has no class names') from error


def in_english(ids: tuple[str, ...]) -> tuple[str, ...]:
  """Class names, where they are ImageNet's WordNet ids, in words."""
  if len(ids) == 1000 and ids[0] == 'n01440764':
    from tensorflow_datasets.datasets.siscore import labels  # the words, which TFDS has there

    if len(labels.IMAGENET_LABELS_LIST) == len(ids):
      return tuple(labels.IMAGENET_LABELS_LIST)
  return ids


def _unknown(name: str) -> UserError:
  import tensorflow_datasets as tfds

  known = {*OWN, *tfds.list_builders(with_community_datasets=False)}
  begun = sorted(other for other in known if name and other.startswith(name))
  near = [*begun[:2], *difflib.get_close_matches(name, known, n=3)]
  hint = f': did you mean {" or ".join(near)}?' if near else ''
  return UserError(f'no TFDS data set is called {name!r}{hint}')


def damaged(name: str, folder, error: Exception) -> UserError:
  """What to say where the prepared data set in `folder` cannot be read."""
  reason = ' '.join(str(error).split())[:150]
  return UserError(
    f'data set {name} in {folder} is damaged ({reason}): remove that folder and prepare it anew'
  )


def prepared_builder(name: str, data_dir: str):
  """The TFDS builder of a data set that is prepared in `data_dir` ('': TFDS's own default).

  Raises:
    UserError: there is no such data set, or it is not prepared there.
  """
  import tensorflow_datasets as tfds

  data_dir_or_default = data_dir or None
  if name == 'digits':
    return _prepared_digits(data_dir_or_default)
  known = tfds.list_builders(with_community_datasets=False)
  try:
    if name in OWN:
      builder = own_builder(name, data_dir=data_dir_or_default)
    elif name.split(':')[0].split('/')[0] in known:
      builder = tfds.builder(name, data_dir=data_dir_or_default, try_gcs=False)
    else:  # `tfds.builder` would look for the name on the network
      from_files = tfds.core.read_only_builder.builder_from_files
      builder = from_files(name, data_dir=data_dir_or_default)
  except tfds.core.DatasetNotFoundError as error:
    raise _unknown(name) from error
  except (ValueError, AssertionError, ImportError) as error:
    raise UserError(f'data set {name!r}: {" ".join(str(error).split())[:200]}') from error
  if not builder.is_prepared():
    where = f' --data-dir={data_dir}' if data_dir else ''
    command = f'`mixer-jax data prepare {name}{where}`'
    found = tfds.core.utils.version.list_all_versions(builder.data_path.parent)
    others = [str(version) for version in found if version != builder.version]
    if others:
      raise UserError(
        f'data set {name} in {builder.data_path.parent} is of version {others[-1]}, and version '
        f'{builder.version} is looked for: name it {name.split(":")[0]}:{others[-1]}, or run '
        f'{command}'
      )
    raise UserError(f'data set {name} is not prepared in {builder.data_dir}: run {command} first')
  return builder


def _prepared_digits(data_dir: str | None):
  """The embedded data set, prepared on first use. Several processes may come at once."""
  from mixer_jax.data.digits import Digits

  try:
    builder = Digits(data_dir=data_dir, file_format='array_record')
  except Exception as error:  # what is there already cannot be read
    raise damaged('digits', data_dir or 'the data_dir of TFDS', error) from error
  if builder.is_prepared():
    return builder
  log.info('preparing data set digits in %s', builder.data_dir)
  reason = prepare('digits', data_dir or '', quiet=True)
  builder = Digits(data_dir=data_dir, file_format='array_record')
  if not builder.is_prepared():  # if another process was faster, its work is as good
    raise UserError(
      f'data set digits could not be prepared in {builder.data_dir}: {reason}; remove what is there'
    )
  return builder


def _known_splits(builder) -> str:
  return ', '.join(builder.info.splits)
