"""TFDS builders by name, and the records that they have prepared."""

import difflib
import logging
import os
import re
import shlex
from collections.abc import Callable, Collection, Sequence
from typing import Any, SupportsIndex

from mixer_jax.data import tasks, tf_example
from mixer_jax.data.array_records import ArrayRecords
from mixer_jax.data.prepare import OWN, own_builder, prepare
from mixer_jax.data.shards import Part
from mixer_jax.data.source import Source
from mixer_jax.data.tfds_files import (
  check_descriptions,
  check_reachable,
  unreadable,
)
from mixer_jax.data.tfrecords import TFRecords
from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.paths import is_remote, user_path
from mixer_jax.storage import read_retried

log = logging.getLogger(__name__)


class NotPreparedError(UserError):
  """TFDS knows the data set, but it is not prepared on this machine."""

  def __init__(self, message: str, command: str):
    super().__init__(message)
    self.command = command
    """Command that prepares it: 'mixer-jax data prepare NAME'."""


def random_access(builder, name: str, split: str, paths: Collection[str] = ()) -> Sequence:
  """Return the records of a prepared data set; images stay encoded.

  They are read without TFDS, also by another process to which they are sent; but Parquet is not.

  Args:
    paths: features of a record, see `tf_example.parser`.

  Raises:
    UserError: the data set is stored in a format without random access.
  """
  import tensorflow_datasets as tfds

  info, formats = builder.info, tfds.core.FileFormat
  if formats.ARRAY_RECORD in info.available_file_formats():
    info.set_file_format(formats.ARRAY_RECORD, override=True, override_if_initialized=True)
  parse = tf_example.parser(info.features, paths)
  # TFDS passes the same parts to its own readers.
  parts = [
    Part(os.fspath(part.filename), part.skip, part.take, part.examples_in_shard)
    for part in info.splits[split].file_instructions
  ]
  if info.file_format is formats.ARRAY_RECORD:
    return ArrayRecords(parts, parse, name, builder.data_dir)
  if info.file_format is formats.TFRECORD:
    return TFRecords(parts, parse, name)
  if info.file_format is formats.PARQUET:
    raw = tfds.decode.DeserializeMethod.RAW_BYTES
    records = _ParquetRecords(builder.as_data_source(split, deserialize_method=raw), parse)
    if len(records) == info.splits[split].num_examples:  # TFDS reads no parts of such files
      return records
  raise UserError(
    f'data set {name} in {builder.data_dir} is stored as {info.file_format}: prepare '
    f'it for random access with `mixer-jax data prepare {name}`'
  )


class _ParquetRecords(Sequence):
  """Records that TFDS has read into memory."""

  def __init__(self, records: Any, parse: Callable[[bytes], Any]):
    self._records, self._parse = records, parse

  def __len__(self) -> int:
    return len(self._records)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    return self._parse(bytes(self._records[index.__index__()]))


def check_place(data_dir: str) -> None:
  """Raise `UserError` if data sets cannot be read from or written to this folder directly."""
  place = data_dir or os.environ.get('TFDS_DATA_DIR', '')
  if is_remote(place):
    raise UserError(
      f'data sets cannot be read from {place} directly: mount the bucket with gcsfuse, or copy the '
      'data set to a disk, and use that folder as data_dir'
    )
  user_path(place)  # refuses addresses of other kinds, also those that lost a slash


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
    UserError: the prepared data set in `folder` is damaged or of another version, or one of the
      records is invalid.
    StorageError: it cannot be read now.
  """
  try:
    for index in (0, len(source) - 1):
      source[index]
  except UserError:
    raise
  except Exception as error:  # array_record and TFDS raise many kinds
    raise unreadable(name, folder, error) from error


def facts(builder, split: str) -> dict[str, str]:
  """Return what identifies the content of a split: version and sizes of all splits in it."""
  info = builder.info
  named = re.findall(r'\w+', split)
  sizes = {name: info.splits[name] for name in info.splits if name in named}
  return {
    f'{info.full_name}, {name}': f'{size.num_examples} examples of {size.num_bytes} bytes'
    for name, size in sizes.items()
  }


def prepared_builder(name: str, data_dir: str):
  """Return the TFDS builder of a data set that is prepared in `data_dir` ('': TFDS's default).

  Raises:
    NotPreparedError: it is not prepared there.
    UserError: there is no such data set, or its files are damaged or of another version.
    StorageError: it cannot be read now.
  """
  import tensorflow_datasets as tfds

  if name == 'digits':
    return _prepared_digits(data_dir)
  builder = _builder(name, data_dir)
  if not builder.is_prepared():
    check_reachable(builder.data_path)
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


def _builder(name: str, data_dir: str, **kwargs: Any):
  """Return the TFDS builder of a data set, prepared or not; raises as `prepared_builder`."""
  import tensorflow_datasets as tfds

  place = os.path.expanduser(data_dir or os.fspath(tfds.core.constants.DATA_DIR))
  folder = os.path.join(place, *name.split(':')[0].split('/'))

  def build() -> tuple[Any, Exception | None]:
    try:
      return _make_builder(name, data_dir=data_dir or None, **kwargs), None
    except Exception as error:  # TFDS, protobuf and the JSON parser raise many kinds
      cause = error if isinstance(error, OSError) else error.__cause__
      if isinstance(cause, OSError):
        raise cause from error  # it is tried again
      return None, error

  builder, error = read_retried(folder, build)
  if error is None:
    return builder
  if isinstance(error, tfds.core.DatasetNotFoundError):
    raise unknown(name) from error
  check_descriptions(name, folder)
  if isinstance(error, ValueError | AssertionError | ImportError):
    raise UserError(f'data set {name!r}: {one_line(error)}') from error
  raise unreadable(name, folder, error) from error


def _make_builder(name: str, **kwargs: Any):
  import tensorflow_datasets as tfds

  if name in OWN:
    return own_builder(name, **kwargs)
  if name.split(':')[0].split('/')[0] in tfds.list_builders(with_community_datasets=False):
    return tfds.builder(name, try_gcs=False, **kwargs)
  # `tfds.builder` would look for the name on the network.
  return tfds.core.read_only_builder.builder_from_files(name, **kwargs)


def _prepared_digits(data_dir: str):
  """Return the builder of `digits`, prepared on first use; safe with several processes."""
  builder = _builder('digits', data_dir)
  if builder.is_prepared():
    return builder
  check_reachable(builder.data_path)
  log.info('preparing data set digits in %s', builder.data_dir)
  refused: StorageError | None = None
  try:
    reason = prepare('digits', data_dir, quiet=True)
  except StorageError as error:
    reason, refused = None, error
  builder = _builder('digits', data_dir)
  if not builder.is_prepared():  # it is also fine if another process was faster
    if refused:
      raise refused
    reason = reason or 'the folder is there and has no dataset_info.json: remove that folder'
    raise UserError(f'data set digits could not be prepared in {builder.data_dir}: {reason}')
  return builder
