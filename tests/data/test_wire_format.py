"""Records parsed from random and from changed bytes, compared with protobuf's own parser."""

import random
from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from tensorflow_datasets.proto import tf_example_pb2

from mixer_jax.data import tf_example
from mixer_jax.data.source import MalformedError
from mixer_jax.data.tf_example import Field

BYTES, FLOATS, INTS = 1, 2, 3
LISTS = {BYTES: 'bytes_list', FLOATS: 'float_list', INTS: 'int64_list'}
FIELDS = {
  b'image': Field('image', BYTES),
  b'label': Field('label', INTS),
  b'': Field('', INTS),
  b'objects/size': Field('size', INTS, (-1,), 'objects'),
  b'objects/place': Field('place', FLOATS, (-1, 2), 'objects'),
}
SINGLE = {key: FIELDS[key] for key in (b'image', b'label')}


def by_protobuf(fields, data: bytes):
  """Return the record that protobuf's parser gives; None if it is malformed."""
  try:
    stored = tf_example_pb2.Example.FromString(data).features.feature
  except DecodeError:
    return None
  record: dict = {}
  for key, field in fields.items():
    feature = dict(stored).get(key.decode())
    if feature is None or feature.WhichOneof('kind') != LISTS[field.kind]:
      return None
    values = list(getattr(feature, LISTS[field.kind]).value)
    width = field.shape[1] if len(field.shape) == 2 else 1
    if len(values) % width or (not field.shape and len(values) != 1):
      return None
    if len(field.shape) == 2:
      values = [values[i : i + width] for i in range(0, len(values), width)]
    place = record.setdefault(field.sequence, {}) if field.sequence else record
    place[field.name] = values if field.shape else values[0]
  return record


def by_us(fields, data: bytes, parse: Callable = tf_example._parse):
  try:
    record = parse(fields, data)
  except MalformedError:
    return None
  listed = lambda value: [getattr(v, 'tolist', lambda v=v: v)() for v in value]
  return {
    key: {k: listed(v) for k, v in value.items()} if isinstance(value, dict) else value
    for key, value in record.items()
  }


def same(one, other) -> bool:
  in_order = lambda record: record and repr(sorted(record.items()))
  return in_order(one) == in_order(other)  # where NaNs are equal


def varint(value: int, rng: random.Random) -> bytes:
  """Encode an integer, sometimes in more bytes than necessary."""
  value &= 2**64 - 1
  digits = []
  while value or not digits:
    digits.append(value & 0x7F)
    value >>= 7
  digits += [0] * (rng.randrange(3) if rng.random() < 0.05 and len(digits) < 3 else 0)
  return bytes([d | 0x80 for d in digits[:-1]] + digits[-1:])


def field(number: int, content: bytes, rng: random.Random) -> bytes:
  return varint(number << 3 | 2, rng) + varint(len(content), rng) + content


def noise(rng: random.Random) -> bytes:
  """A field that readers skip, or nothing."""
  if rng.random() > 0.04:
    return b''
  number = rng.randrange(5, 3000)
  return rng.choice(
    [
      varint(number << 3, rng) + varint(rng.randrange(-5, 2**40), rng),
      varint(number << 3 | 1, rng) + rng.randbytes(8),
      varint(number << 3 | 5, rng) + rng.randbytes(4),
      field(number, rng.randbytes(rng.randrange(9)), rng),
      varint(number << 3 | 3, rng) + field(2, b'x', rng) + varint(number << 3 | 4, rng),
    ]
  )


def feature(kind: int, values: list, rng: random.Random) -> bytes:
  """Encode a feature: numbers packed, single or both, in one list or two."""
  if kind == BYTES:
    pieces = [field(1, value, rng) for value in values]
  elif kind == INTS:
    pieces = [varint(1 << 3, rng) + varint(value, rng) for value in values]
    if rng.random() < 0.7:
      pieces = [field(1, b''.join(varint(value, rng) for value in values), rng)]
  else:
    pieces = [varint(1 << 3 | 5, rng) + value for value in values]
    if rng.random() < 0.7:
      pieces = [field(1, b''.join(values), rng)]
  cut = rng.randrange(len(pieces) + 1) if rng.random() < 0.1 else len(pieces)
  lists = [pieces[:cut], pieces[cut:]] if cut < len(pieces) else [pieces]
  other = field(rng.choice([BYTES, FLOATS, INTS]), b'', rng) if rng.random() < 0.05 else b''
  return other + b''.join(
    noise(rng) + field(kind, noise(rng) + b''.join(part) + noise(rng), rng) for part in lists
  )


def example(rng: random.Random, fields=FIELDS) -> bytes:
  """Encode a record in one of the many ways that protobuf permits."""
  entries = []
  for key, spec in [*fields.items(), *([(b'other', Field('other', BYTES))] * (rng.random() < 0.5))]:
    for _ in range(1 + (rng.random() < 0.1)):  # the last of two with a key counts
      count = rng.randrange(4) * (2 if len(spec.shape) == 2 else 1) if spec.shape else 1
      count += rng.random() < 0.03
      values = {
        BYTES: lambda: rng.randbytes(rng.choice([0, 1, 40, 130, 17_000])),
        FLOATS: lambda: rng.randbytes(4),
        INTS: lambda: rng.choice([0, 3, 127, 128, 999, 21_842, 2**21, 2**40, -1, -(2**63)]),
      }[spec.kind]
      value = field(2, feature(spec.kind, [values() for _ in range(count)], rng), rng)
      parts = [field(1, key, rng), value]
      if rng.random() < 0.05:
        parts.reverse()
      if rng.random() < 0.02:
        parts.insert(rng.randrange(3), rng.choice([noise(rng), *parts]))
      entries.append(field(1, b''.join(parts), rng))
  rng.shuffle(entries)
  cut = rng.randrange(len(entries)) if rng.random() < 0.1 else 0
  halves = [entries[:cut], entries[cut:]] if cut else [entries]
  return b''.join(noise(rng) + field(1, b''.join(h) + noise(rng), rng) for h in halves)


@pytest.mark.parametrize('fields', [FIELDS, SINGLE], ids=['sequences', 'single'])
def test_all_encodings_are_read_as_protobuf_reads_them(fields):
  rng = random.Random(0)
  read = 0
  for _ in range(1500):
    data = example(rng, fields)
    wanted = by_protobuf(fields, data)
    assert same(by_us(fields, data), wanted), data
    read += wanted is not None
  assert read > 500  # and not only malformed ones


@pytest.mark.parametrize('fields', [FIELDS, SINGLE], ids=['sequences', 'single'])
def test_changed_bytes_are_read_or_refused_as_by_protobuf(fields):
  rng = random.Random(1)
  read = 0
  for _ in range(300):
    intact = example(rng, fields)[:300] if rng.random() < 0.2 else example(rng, fields)
    for _ in range(10):
      data = bytearray(intact)
      for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(min(len(data), 400))
        change = rng.randrange(4)
        if change == 0:
          data[at] ^= 1 << rng.randrange(8)
        elif change == 1:
          data[at : at + 1] = rng.randbytes(rng.randrange(3))
        elif change == 2:
          data[at:at] = data[at : at + rng.randrange(9)]
        else:
          data[at] = rng.choice([0, 1, 0x0A, 0x12, 0x1A, 0x7F, 0x80, 0xFF])
        data = data or bytearray(b'\n')
      wanted = by_protobuf(fields, bytes(data))
      got = by_us(fields, bytes(data))
      assert same(got, wanted), bytes(data)
      read += wanted is not None
  assert read > 200


def test_what_writers_write_is_read_in_one_pass():
  """Records of TFDS and TensorFlow are read by the quick way, with the result of the other."""
  rng = random.Random(2)
  for size in (0, 1, 100, 110, 120, 130, 16_000, 16_400, 110_000, 2**21 - 40, 2**21 + 40):
    for label in (0, 1, 127, 128, 16_383, 16_384, 2**21 - 1):
      made = tf_example_pb2.Example()
      made.features.feature['image'].bytes_list.value.append(rng.randbytes(size))
      made.features.feature['label'].int64_list.value.append(label)
      made.features.feature['file_name'].bytes_list.value.append(b'n01440764_10026.JPEG')
      data = made.SerializeToString()
      quick = tf_example._usual(SINGLE, data, len(data))
      assert quick == by_us(SINGLE, data, tf_example._parse) == by_protobuf(SINGLE, data)
      assert quick == tf_example._any(SINGLE, data, len(data))
      longer = tf_example._parse(SINGLE, data + b'\xff\xff\xff\xff', len(data))
      assert longer == quick


@pytest.mark.parametrize('label', [-1, -(2**63), 2**63 - 1])
def test_labels_of_64_bits_keep_their_sign(label):
  made = tf_example_pb2.Example()
  made.features.feature['image'].bytes_list.value.append(b'x')
  made.features.feature['label'].int64_list.value.append(label)
  assert tf_example._parse(SINGLE, made.SerializeToString())['label'] == label


@pytest.mark.parametrize('depth', [1, 50, 90])
def test_nested_groups_are_skipped(depth):
  data = example(random.Random(3), SINGLE)
  group = b'\x2b' * depth + b'\x2c' * depth
  assert same(by_us(SINGLE, group + data), by_protobuf(SINGLE, group + data))
  assert by_us(SINGLE, group[:-1] + data) is None
