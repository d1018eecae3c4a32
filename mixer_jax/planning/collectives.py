"""The collectives of a compiled program, read from its HLO text."""

import collections
import math
import re

_KINDS = 'all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute|collective-broadcast'
# `-start` only launches a collective; its `-done` has the type of the result.
_COLLECTIVE = re.compile(rf'^\s*(?:ROOT )?%?[\w.-]+ = (.+?) ({_KINDS})(-start|-done)?\(')
_HEADER = re.compile(r'^(ENTRY )?%?([\w.-]+) \(.*\{$')
_CALLED = re.compile(r'(body|calls|to_apply)=%?([\w.-]+)')
_LOOP = re.compile(r' while\(.*condition=%?([\w.-]+)')
_TRIPS = re.compile(r'known_trip_count\D+(\d+)')
_LIMIT = re.compile(r'= s32\[\]\S* constant\((\d+)\)')
_BELOW = re.compile(r'ROOT .* compare\(.*direction=LT')
_ARRAY = re.compile(r'\b([a-z]+)(\d+)?[a-z0-9]*\[([\d,]*)\]')


def collectives(hlo: str) -> dict[str, dict[str, int]]:
  """Return kind -> {'count', 'bytes'} per run of the program, with loops followed.

  Bytes are those of one device's results. A collective of several arrays counts once.
  """
  entry, lines = _computations(hlo)
  found: dict[str, dict[str, int]] = collections.defaultdict(lambda: {'count': 0, 'bytes': 0})

  def visit(name: str, times: int) -> None:
    for line in lines[name]:
      match = _COLLECTIVE.match(line)
      if match and match[3] != '-start':
        found[match[2]]['count'] += times
        found[match[2]]['bytes'] += times * _size(match[1])
      for role, called in _CALLED.findall(line):
        visit(called, times * (_trips(line, lines) or 1) if role == 'body' else times)

  visit(entry, 1)
  return dict(sorted(found.items()))


def loops(hlo: str) -> set[int]:
  """Return the trip counts of the program's loops, where the text states them."""
  _, lines = _computations(hlo)
  return {
    trips for body in lines.values() for line in body if (trips := _trips(line, lines)) is not None
  }


def _trips(line: str, lines: dict[str, list[str]]) -> int | None:
  """Return the trip count of the loop that this line calls; None: no loop, or not stated.

  CPU programs are annotated; in TPU programs it is the constant that the index, which
  `lax.scan` counts from 0, is compared with.
  """
  loop = _LOOP.search(line)
  if not loop:
    return None
  known = _TRIPS.search(line)
  if known:
    return int(known[1])
  condition = lines[loop[1]]
  limits = [match[1] for text in condition if (match := _LIMIT.search(text))]
  if len(limits) == 1 and any(_BELOW.search(text) for text in condition):
    return int(limits[0])
  return None


def _computations(hlo: str) -> tuple[str, dict[str, list[str]]]:
  """Return (name of the entry computation, name -> lines of every computation)."""
  entry, name, lines = '', '', collections.defaultdict(list)
  for line in hlo.splitlines():
    header = _HEADER.match(line)
    if header:
      name = header[2]
      entry = name if header[1] else entry
    else:
      lines[name].append(line)
  return entry, lines


def _size(types: str) -> int:
  """Return the bytes of a type such as 'f32[8,128]{1,0}', or of a tuple of them."""
  total = 0
  for kind, bits, dims in _ARRAY.findall(types):
    width = 8 if kind == 'pred' else int(bits or 0)  # a token has no size
    total += math.prod(int(dim) for dim in dims.split(',') if dim) * width // 8
  return total
