"""TFDS builders by name, and the records that they have prepared."""

import difflib
import logging
import os
import re
import shlex
from collections.abc import Callable, Sequence
from typing import SupportsIndex

from mixer_jax.data import tasks, tf_example, tfrecords
from mixer_jax.data.prepare import OWN, own_builder, prepare
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError, one_line
from mixer_jax.paths import is_remote

log = logging.getLogger(__name__)


class NotPreparedError(UserError):
  """TFDS knows the data set, but it is not prepared on this machine."""

  def __init__(self, message: str, command: str):
    super().__init__(message)
    self.command = command
    """Command that prepares it: 'mixer-jax data prepare NAME'."""


def random_access(builder, name: str, split: str) -> Sequence:
  """Return the records of a prepared data set; images stay encoded."""
  import tensorflow_datasets as tfds

  parse = tf_example.parser(builder.info.features)
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
  # TFDS reads TFRecord sequentially, with TensorFlow. The parts are the same that it passes to
  # array_record.
  parts = [
    tfrecords.Part(os.fspath(part.filename), part.skip, part.take, part.examples_in_shard)
    for part in builder.info.splits[split].file_instructions
  ]
  return tfrecords.TFRecords(parts, parse, name)


class _ArrayRecords(Sequence):
  """TFDS's reader, with a message for files that are damaged, truncated or missing."""

  def __init__(self, records: Sequence, parse: Callable, name: str, folder: os.PathLike | str):
    self._records, self._parse, self._name, self._folder = records, parse, name, folder

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    try:
      data = self._records[index.__index__()]
    except RuntimeError as error:
      # Other errors, such as of the network, may not occur again after a restart.
      if any(sign in str(error) for sign in _PERMANENT):
        raise damaged(self._name, self._folder, error) from error
      raise
    return self._parse(data)


_PERMANENT = ('Riegeli/records file', 'ArrayRecord file should be', 'No such file')
"""Parts of array_record's messages if reading again does not help."""


def check_place(data_dir: str) -> None:
  """Raise `UserError` if data sets cannot be read from or written to this folder directly."""
  place = data_dir or os.environ.get('TFDS_DATA_DIR', '')
  if is_remote(place):
    raise UserError(
      f'data sets cannot be read from {place} directly: mount the bucket with gcsfuse, or copy the '
      'data set to a disk, and use that folder as data_dir'
    )


def check_name(name: str) -> None:
  """Raise `UserError` unless TFDS or this package has a data set of this name."""
  import tensorflow_datasets as tfds

  known = tfds.list_builders(with_community_datasets=False)
  if name not in OWN and name.split(':')[0].split('/')[0] not in known:
    raise unknown(name)


def unknown(name: str) -> UserError:
  """Return the error for an unknown data set, with names that may be meant."""
  import tensorflow_datasets as tfds

  known = {*OWN, *tasks.names(), *tfds.list_builders(with_community_datasets=False)}
  longer = sorted(other for other in known if name and other.startswith(name))
  near = [*longer[:2], *difflib.get_close_matches(name, known, n=3)]
  hint = f': did you mean {" or ".join(near)}?' if near else '; folder:DIR is a folder of images'
  if name == 'jft300m':
    hint = ', which was never public: name a replacement, as in B/32,jft300m,imagenet21k'
  return UserError(f'no TFDS data set {name!r}{hint}')


def check_readable(source: Source, name: str, folder) -> None:
  """Read the first and the last record.

  Raises:
    UserError: the prepared data set in `folder` is damaged, or one of the records is invalid.
  """
  try:
    for index in (0, len(source) - 1):
      source[index]
  except UserError:
    raise
  except Exception as error:  # array_record and TFDS raise many kinds
    raise damaged(name, folder, error) from error


def facts(builder, split: str) -> dict[str, str]:
  """Return what identifies the content of a split: version and sizes of all splits in it."""
  info = builder.info
  named = re.findall(r'\w+', split)
  sizes = {name: info.splits[name] for name in info.splits if name in named}
  return {
    f'{info.full_name}, {name}': f'{size.num_examples} examples of {size.num_bytes} bytes'
    for name, size in sizes.items()
  }


def damaged(name: str, folder, error: Exception) -> UserError:
  """Return the error for a prepared data set in `folder` that cannot be read."""
  reason = one_line(error, 150)
  return UserError(
    f'data set {name} in {folder} is damaged ({reason}): remove that folder and prepare it again'
  )


def prepared_builder(name: str, data_dir: str):
  """Return the TFDS builder of a data set that is prepared in `data_dir` ('': TFDS's default).

  Raises:
    NotPreparedError: it is not prepared there.
    UserError: there is no such data set.
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
    raise unknown(name) from error
  except (ValueError, AssertionError, ImportError) as error:
    raise UserError(f'data set {name!r}: {one_line(error)}') from error
  if not builder.is_prepared():
    where = f' --data-dir={shlex.quote(data_dir)}' if data_dir else ''
    command = f'mixer-jax data prepare {name}{where}'
    found = tfds.core.utils.version.list_all_versions(builder.data_path.parent)
    others = [str(version) for version in found if version != builder.version]
    if others:
      raise NotPreparedError(
        f'data set {name} in {builder.data_path.parent} has version {others[-1]}, but version '
        f'{builder.version} is needed: name it {name.split(":")[0]}:{others[-1]}, or run '
        f'`{command}`',
        command,
      )
    raise NotPreparedError(
      f'data set {name} is not prepared in {builder.data_dir}: run `{command}` first', command
    )
  return builder


def _prepared_digits(data_dir: str | None):
  """Return the builder of `digits`, prepared on first use; safe with several processes."""
  from mixer_jax.data.digits import Digits

  try:
    builder = Digits(data_dir=data_dir, file_format='array_record')
  except Exception as error:  # an earlier version in this folder cannot be read
    raise damaged('digits', data_dir or 'the data_dir of TFDS', error) from error
  if builder.is_prepared():
    return builder
  log.info('preparing data set digits in %s', builder.data_dir)
  reason = prepare('digits', data_dir or '', quiet=True)
  builder = Digits(data_dir=data_dir, file_format='array_record')
  if not builder.is_prepared():  # it is also fine if another process was faster
    raise UserError(
      f'data set digits could not be prepared in {builder.data_dir}: {reason}; remove that folder'
    )
  return builder
