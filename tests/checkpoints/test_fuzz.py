"""Mutated weights files: only `UserError` comes out, and memory stays bounded.

Every mutation is a function of its number, so a fault is found again by it.
"""

import io
import json
import resource
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest

from mixer_jax.checkpoints import layouts
from mixer_jax.errors import UserError
from tests.helpers import reference

SEEDS = [
  (reference.DATA / name).read_bytes()
  for name in (
    *('mixer_tiny.npz', 'mixer_tiny.legacy.npz', 'mixer_tiny.timm.safetensors'),
    *('vit_token.npz', 'vit_gap.linen.npz', 'vit_token.timm.safetensors'),
    *('bit_tiny.npz', 'bit_tiny.big_vision.npz'),
  )
]
UNPACKED = 10 * 2**20
"""Bytes of the arrays of bit_tiny.npz, which is compressed, and some more."""
WORDS = (
  b'',
  b'\x00',
  b'\xff' * 8,
  b'PK\x01\x02',
  b'\x93NUMPY',
  b'(9,' * 40,
  b"'descr': '|O'",
  b'/',
)
SIZES = (0, 1, -1, 2**31 - 1, 2**32 - 1, 2**63 - 1, -(2**63))


def mutated(number: int) -> tuple[str, bytes]:
  """(suffix, bytes) of the mutation of this number."""
  rng = np.random.default_rng(number)
  data = SEEDS[rng.integers(len(SEEDS))]
  suffix = '.npz' if data[:2] == b'PK' else '.safetensors'
  ways = [_flip, _cut, _splice, _write_size, _restructure_zip]
  if suffix == '.safetensors':
    ways = [_flip, _cut, _splice, _write_size, _restructure_header, _restructure_header]
  for _ in range(rng.integers(1, 4)):
    data = ways[rng.integers(len(ways))](data, rng)
  return suffix, data


def _place(data: bytes, rng) -> int:
  """Often where the structure is: the first and last kilobytes."""
  near = rng.integers(3)
  span = min(len(data), 4096)
  if not span:
    return 0
  at = int(rng.integers(span if near else len(data)))
  return at if near != 1 else len(data) - 1 - at


def _flip(data, rng):
  out = bytearray(data)
  for _ in range(rng.integers(1, 9)):
    if out:
      out[_place(data, rng)] ^= 1 << int(rng.integers(8))
  return bytes(out)


def _cut(data, rng):
  begin, end = sorted((_place(data, rng), _place(data, rng)))
  return data[:begin] + data[end:] if rng.integers(2) else data[:end]


def _splice(data, rng):
  at = _place(data, rng)
  word = WORDS[rng.integers(len(WORDS))]
  return data[:at] + word + data[at + int(rng.integers(2)) * len(word) :]


def _write_size(data, rng):
  at = _place(data, rng)
  length = (2, 4, 8)[rng.integers(3)]
  size = SIZES[rng.integers(len(SIZES))] % 2 ** (8 * length)
  return data[:at] + size.to_bytes(length, 'little') + data[at + length :]


def _restructure_zip(data, rng):
  """A whole archive with members renamed, dropped, doubled, reshaped or of another dtype."""
  try:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
      members = [(name, archive.read(name)) for name in archive.namelist()]
  except Exception:  # mutated before
    return _flip(data, rng)
  out = io.BytesIO()
  with zipfile.ZipFile(out, 'w', zipfile.ZIP_DEFLATED if rng.integers(2) else 0) as archive:
    taken = set()
    for name, content in members:
      if rng.integers(len(members)) < 2:
        name, content = _other_member(name, content, rng)
      if name and name not in taken:
        archive.writestr(name, content)
        taken.add(name)
  return out.getvalue()


def _other_member(name, content, rng):
  way = rng.integers(6)
  if way == 0:
    return '', content
  if way == 1:
    return name[: rng.integers(len(name))] + '.npy', content
  if way == 2:
    return name, _flip(content, rng)
  if way == 3:
    return name, content.replace(b'<f4', (b'|O', b'<i4', b'<f2', b'<c8', b'<U1')[rng.integers(5)])
  shape = tuple(int(side) for side in rng.choice([0, 1, 3, 24, 10**6, 2**40], rng.integers(5)))
  file = io.BytesIO()
  header = {'descr': '<f4', 'fortran_order': bool(rng.integers(2)), 'shape': shape}
  np.lib.format.write_array_header_1_0(file, header)
  return name, file.getvalue() + (content if way == 4 else b'')


def _restructure_header(data, rng):
  """A safetensors header with an entry changed, and a length that fits it."""
  try:
    length = struct.unpack('<Q', data[:8])[0]
    header = json.loads(data[8 : 8 + length])
    name = list(header)[rng.integers(len(header))]
    entry = header[name]
    way = rng.integers(6)
    if way == 0:
      del header[name]
    elif way == 1:
      header[name + '.'] = header.pop(name)
    elif way == 2:
      entry['dtype'] = ('F64', 'BF16', 'I64', 'X', 3)[rng.integers(5)]
    elif way == 3:
      entry['shape'] = [int(side) for side in rng.choice([-1, 0, 1, 24, 2**40], rng.integers(5))]
    elif way == 4:
      entry['data_offsets'] = [int(place) for place in rng.choice([-4, 0, 96, 10**6, 2**62], 2)]
    else:
      header[name] = [None, 3, 'text', [entry]][rng.integers(4)]
    text = json.dumps(header).encode()
  except Exception:  # mutated before
    return _flip(data, rng)
  return struct.pack('<Q', len(text)) + text + data[8 + length :]


def run(numbers, folder) -> tuple[int, int]:
  """(refused, taken); the first fault names its number."""
  refused = taken = 0
  bound = 40 * max(map(len, SEEDS)) + UNPACKED
  for number in numbers:
    suffix, data = mutated(number)
    path = folder / f'w{suffix}'
    path.write_bytes(data)
    tracemalloc.start()
    text = ''
    try:
      layouts.read(path, {'num_heads': 3})
      taken += 1
    except UserError as error:
      text = str(error)
      refused += 1
    except BaseException:
      print(f'mutation {number}')
      raise
    finally:
      peak = tracemalloc.get_traced_memory()[1]
      tracemalloc.stop()
    assert '\n' not in text, number
    assert peak < bound, f'mutation {number} took {peak} bytes'
  return refused, taken


@pytest.mark.parametrize(
  ('first', 'count'),
  [(0, 500), *(pytest.param(500 + 5000 * i, 5000, marks=pytest.mark.long) for i in range(4))],
)
def test_mutated_files_are_refused_in_one_line_or_taken(tmp_path, first, count):
  before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
  refused, taken = run(range(first, first + count), tmp_path)
  assert refused + taken == count
  assert refused > 0.6 * count  # the mutations do bite
  assert taken > 0.01 * count  # and are not all hopeless
  assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200 * 1024
  print(f'{refused} refused, {taken} taken')
