"""Parser of records as TFDS stores them (serialised `tf.train.Example`).

TFDS's own parser supports every kind of feature, but holds Python's global lock for most of its
time, and takes a second and 100 MB to import. The usual features of image data sets are parsed
here from the bytes, with the results of protobuf's own parser. Features that are not asked for are
skipped, and their values are not checked.

An `Example` is `{Features features = 1}`, `Features` is `{map<string, Feature> feature = 1}`, and
a `Feature` is one of `{BytesList = 1, FloatList = 2, Int64List = 3}`, each `{repeated value = 1}`.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from mixer_jax.data import wire_format as wire
from mixer_jax.data.source import MalformedError
from mixer_jax.errors import one_line

_BYTES, _FLOATS, _INTS = 1, 2, 3
"""Fields of `Feature`."""


@dataclasses.dataclass(frozen=True)
class Field:
  """Feature to parse.

  Attributes:
    name: name in the result.
    kind: field of `Feature` with its values.
    shape: of a sequence with its elements, -1 for its length; () for one value.
    sequence: feature that it is inside of; '' if it is not inside of one.
  """

  name: str
  kind: int
  shape: tuple[int, ...] = ()
  sequence: str = ''


Fields = Mapping[bytes, Field]
"""Key in the map of features -> what is stored there."""


def parser(features, paths: Collection[str] = ()) -> functools.partial[dict[str, Any]]:
  """Return a function that parses records with these TFDS features; images stay encoded.

  It takes the bytes, and optionally the end of the record in them. It raises `MalformedError` if
  they are not a record, or lack a feature. It can be pickled, and then needs no TFDS.

  Args:
    paths: features to parse, as in 'objects/size'; () for all.
  """
  paths = paths or tuple(features)
  fields = {path.encode(): _field(features, path) for path in paths}
  known = {path: field for path, field in fields.items() if field}
  if len(known) == len(fields):
    return functools.partial(_parse, known)
  import tensorflow_datasets as tfds

  keep = {'image': tfds.decode.SkipDecoding()}
  parse = functools.partial(features.deserialize_example_np, decoders=keep)
  return functools.partial(_parsed_by_tfds, parse)


def _field(features, path: str) -> Field | None:
  """Return how a feature is stored; None if only TFDS can parse it."""
  import tensorflow_datasets as tfds

  name, sequence = path, ''
  if path not in features:
    sequence, _, name = path.partition('/')
    features = features[sequence].feature
  feature, length = features[name], (-1,) if sequence else ()
  if isinstance(feature, tfds.features.Sequence) and not sequence:
    feature, length = feature.feature, (-1,)
  if isinstance(feature, tfds.features.Image) and not length:
    return Field(name, _BYTES)
  if not isinstance(feature, tfds.features.Tensor):
    return None
  stored = feature.get_serialized_info()
  if stored != feature.get_tensor_info() or None in stored.shape or (stored.shape and not length):
    return None  # compressed, of several lengths, or of a kind that no data set here has
  kinds = (
    {np.int64: _INTS, np.float32: _FLOATS} if length else {np.int64: _INTS, np.object_: _BYTES}
  )
  kind = kinds.get(np.dtype(stored.np_dtype).type)
  return Field(name, kind, (*length, *stored.shape), sequence) if kind else None


def _parse(fields: Fields, data: bytes, end: int | None = None) -> dict[str, Any]:
  end = len(data) if end is None else end
  try:
    return _usual(fields, data, end) or _any(fields, data, end)
  except (wire.WireError, UnicodeDecodeError) as error:
    raise MalformedError('is not a tf.train.Example') from error


def _parsed_by_tfds(
  parse: Callable[[bytes], dict[str, Any]], data: bytes, end: int | None = None
) -> dict[str, Any]:
  try:
    return parse(data[:end])
  except Exception as error:  # TFDS and protobuf raise many kinds
    raise MalformedError(f'cannot be parsed: {one_line(error, 150)}') from error


def _usual(fields: Fields, data: bytes, end: int) -> dict[str, Any] | None:
  """Return a record of single values as all writers encode them; None if it is another one.

  Nothing follows a value, at any level, so all lengths lead to the end of the entry.
  """
  record: dict[str, Any] = {}
  try:
    at, last = _span(data, 1)
    if data[0] != 0x0A or last != end:
      return None
    while at < end:
      entry, last = _span(data, at + 1)
      after = entry + 2 + data[entry + 1]
      key = data[entry + 2 : after]
      if not data[at] == data[entry] == 0x0A or last > end or not key.isascii():
        return None
      at, field = last, fields.get(key)
      heads = _HEADS[field.kind] if field else ()
      begin = after + 6
      if last - after >= 0x80 or field is None or data[after:begin] != heads[last - after]:
        begin = _value(data, after, last, field)
        if not begin:
          return None
      if field is None:
        continue
      if field.kind == _BYTES:
        record[field.name] = data[begin:last]
      else:
        begin, stop = _span(data, begin)  # an integer is encoded as a length is
        if begin != last or field.shape:
          return None
        record[field.name] = stop - begin
  except (IndexError, wire.WireError):
    return None
  return record if at == end and len(record) == len(fields) else None


_HEADS = {
  kind: [
    bytes((0x12, size - 2, kind << 3 | 2, size - 4, 0x0A, size - 6)) if size >= 6 else b''
    for size in range(0x80)
  ]
  for kind in (_BYTES, _FLOATS, _INTS)
}
"""Kind of a feature -> the bytes between its key and a single value, by the size of both."""


def _value(data: bytes, at: int, end: int, field: Field | None) -> int:
  """Return where the single value of a feature begins that ends at `end`; 0 if it has another form.

  Only that the feature ends there is checked of one that is not asked for.
  """
  begin, stop = _span(data, at + 1)
  if data[at] != 0x12 or stop != end:
    return 0
  if field is None:
    return begin
  tag = data[begin]
  begin, stop = _span(data, begin + 1)
  if tag != field.kind << 3 | 2 or stop != end or data[begin] != 0x0A:
    return 0
  begin, stop = _span(data, begin + 1)
  return begin if stop == end else 0


def _span(data: bytes, at: int) -> tuple[int, int]:
  """Return begin and end of bytes with a length of up to three bytes before them."""
  size = data[at]
  if size < 0x80:
    return at + 1, at + 1 + size
  size += (data[at + 1] << 7) - 0x80
  if size < 0x4000:
    return at + 2, at + 2 + size
  size += (data[at + 2] << 14) - 0x4000
  if size < 0x200000:
    return at + 3, at + 3 + size
  return wire.length(data, at, len(data))


def _any(fields: Fields, data: bytes, end: int) -> dict[str, Any]:
  """Return a record in any encoding."""
  found: dict[bytes, tuple[int, list]] = {}
  for begin, stop in _messages(data, 0, end):
    for entry in _messages(data, begin, stop):
      key, feature = _entry(data, *entry)
      if feature is None:
        continue
      if key in fields:
        found[key] = _feature(data, feature)
      else:
        key.decode()  # which is checked in a map
  record: dict[str, Any] = {}
  for key, field in fields.items():
    kind, values = found.get(key, (0, []))
    if field.shape and kind == field.kind:
      place = record.setdefault(field.sequence, {}) if field.sequence else record
      place[field.name] = _sequence(key, field, values)
    elif kind == field.kind and len(values) == 1:
      record[field.name] = values[0]
    else:
      count = len(values) if kind == field.kind and not field.shape else 0
      what = '' if field.shape else ' instead of one'
      raise MalformedError(f'has {count or "no"} values of {key.decode()!r}{what}')
  return record


def _sequence(key: bytes, field: Field, values: list) -> list:
  """Return the elements of a sequence, of TFDS's types: NumPy scalars or arrays."""
  try:
    dtype = np.int64 if field.kind == _INTS else np.float32
    return list(np.array(values, dtype).reshape(field.shape))
  except ValueError as error:
    raise MalformedError(f'has {len(values)} values of {key.decode()!r}') from error


def _messages(data: bytes, at: int, end: int) -> Iterator[tuple[int, int]]:
  """Yield begin and end of each value of the repeated message that is field 1."""
  for number, kind, begin, stop in wire.fields(data, at, end):
    if number == 1 and kind == wire.BYTES:
      yield begin, stop


def _entry(data: bytes, at: int, end: int) -> tuple[bytes, list[tuple[int, int]] | None]:
  """Return key and value of an entry of a map; a value in several pieces is their sum.

  An entry with other fields is no entry for protobuf's parser, and has the value None.
  """
  key, pieces, is_known = b'', [], True
  for number, kind, begin, stop in wire.fields(data, at, end):
    if number == 1 and kind == wire.BYTES:
      key = data[begin:stop]
    elif number == 2 and kind == wire.BYTES:
      pieces.append((begin, stop))
    else:
      is_known = False
  key.decode()
  return key, pieces if is_known else None


def _feature(data: bytes, pieces: Iterable[tuple[int, int]]) -> tuple[int, list]:
  """Return the kind of a feature, 0 for none, and its values; the last kind replaces others."""
  current, values = 0, []
  for at, end in pieces:
    for number, kind, begin, stop in wire.fields(data, at, end):
      if number in (_BYTES, _FLOATS, _INTS) and kind == wire.BYTES:
        if number != current:
          current, values = number, []
        for place, how, first, last in wire.fields(data, begin, stop):
          if place == 1:
            values += _values(data, number, how, first, last)
  return current, values


def _values(data: bytes, number: int, kind: int, begin: int, end: int) -> Sequence:
  """Return the values of a field of a list; numbers may be packed or not."""
  if number == _BYTES and kind == wire.BYTES:
    return (data[begin:end],)
  if number == _INTS and kind == wire.VARINT:
    return (begin,)
  if number == _INTS and kind == wire.BYTES:
    return wire.varints(data, begin, end)
  if number == _FLOATS and kind in (wire.BYTES, wire.FIXED32):
    return wire.floats(data, begin, end)
  return ()
