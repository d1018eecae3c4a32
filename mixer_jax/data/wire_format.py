"""Reader of the protobuf wire format (protobuf.dev/programming-guides/encoding).

A message is a series of fields, each a tag (number and wire type) and a value. A reader skips the
fields that it does not know, and the last value of a field counts.
"""

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
"""Wire types."""

_SIZES = {FIXED64: 8, FIXED32: 4}
_MAX_DEPTH = 100
"""Nested groups that protobuf's own parsers read."""


class WireError(ValueError):
  """The bytes are not a message."""


def fields(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
  """Yield the fields of a message in `data[at:end]`.

  Yields:
    (number, wire type, begin, end) of each field; the value is `data[begin:end]`. A varint's begin
    is its value, as a signed integer of 64 bits. Groups, which are obsolete, are skipped.

  Raises:
    WireError: no message.
  """
  while at < end:
    tag = data[at]
    at += 1
    if tag > 0x7F:
      tag, at = _tag(data, at - 1, end)
    number, kind = tag >> 3, tag & 7
    if not number:
      raise WireError('a field has the number 0')
    if kind == BYTES:
      begin, at = length(data, at, end)
      yield number, kind, begin, at
    elif kind == VARINT:
      value, at = varint(data, at, end)
      yield number, kind, value, at
    elif kind in _SIZES:
      begin, at = at, at + _SIZES[kind]
      if at > end:
        raise WireError('a number is cut off')
      yield number, kind, begin, at
    elif kind == GROUP:
      at = _after_group(data, at, end, number, 1)
    else:
      raise WireError(f'a field has the wire type {kind}')


def varint(data: bytes, at: int, end: int) -> tuple[int, int]:
  """Return the signed integer of 64 bits at a position, and the position after it."""
  value = shift = 0
  while at < end and shift < 70:
    byte = data[at]
    at += 1
    value |= (byte & 0x7F) << shift
    if byte < 0x80:
      value &= 0xFFFF_FFFF_FFFF_FFFF
      return (value - (1 << 64) if value >> 63 else value), at
    shift += 7
  raise WireError('an integer is cut off or too long')


def length(data: bytes, at: int, end: int) -> tuple[int, int]:
  """Return begin and end of bytes with their length before them."""
  size, begin = varint(data, at, min(end, at + 5))
  if not 0 <= size <= end - begin:
    raise WireError('a field is cut off')
  return begin, begin + size


def varints(data: bytes, at: int, end: int) -> list[int]:
  """Return packed integers."""
  values = []
  while at < end:
    value, at = varint(data, at, end)
    values.append(value)
  return values


def floats(data: bytes, at: int, end: int) -> tuple[float, ...]:
  """Return packed floats of 32 bits."""
  if (end - at) % 4:
    raise WireError('a number is cut off')
  return struct.unpack_from(f'<{(end - at) // 4}f', data, at)


def _tag(data: bytes, at: int, end: int) -> tuple[int, int]:
  tag, after = varint(data, at, min(end, at + 5))
  if not 0 <= tag < 1 << 32:
    raise WireError('a tag is too long')
  return tag, after


def _after_group(data: bytes, at: int, end: int, number: int, depth: int) -> int:
  """Return the position after a group's end."""
  while at < end and depth <= _MAX_DEPTH:
    tag, at = _tag(data, at, end)
    inner, kind = tag >> 3, tag & 7
    if kind == END_GROUP and inner == number:
      return at
    if kind == BYTES:
      _, at = length(data, at, end)
    elif kind == VARINT:
      _, at = varint(data, at, end)
    elif kind in _SIZES:
      at += _SIZES[kind]
    elif kind == GROUP:
      at = _after_group(data, at, end, inner, depth + 1)
    else:
      break
  raise WireError('a group does not end')
