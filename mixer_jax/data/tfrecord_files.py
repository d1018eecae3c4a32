"""TFRecord files: the positions of their records, and their checksums.

A record is, little-endian: the length of its data (uint64), the checksum of these 8
bytes (uint32), the data, the checksum of the data (uint32); a checksum is a CRC-32C,
masked (TensorFlow, `lib/io/record_writer.h`). Files do not say where their records begin, so the
12 bytes before each record are read to find the next one.
"""

import dataclasses
import os
import struct
from collections.abc import Callable
from typing import TypeVar

import google_crc32c
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.storage import NOT_THERE, read_retried

T = TypeVar('T')

HEADER, CHECKSUM = struct.Struct('<QI'), struct.Struct('<I')
_OVERHEAD = HEADER.size + CHECKSUM.size  # bytes of a record that are not its data
_MASK = 0xA282EAD8

Stamp = tuple[int, int]
"""Size in bytes and modification time in ns of a file."""


@dataclasses.dataclass(frozen=True)
class Shard:
  """Positions of the records of a file.

  Attributes:
    stamp: of the file that was scanned.
    bounds: (records + 1,) int64: first byte of each record, and the end of the last one.
  """

  stamp: Stamp
  bounds: np.ndarray


class OpenFile:
  """A descriptor that is closed when it is no longer used."""

  def __init__(self, path: str):
    self.descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

  def __del__(self, close=os.close):  # bound here: modules may be gone when Python ends
    if 'descriptor' in self.__dict__:
      close(self.descriptor)


def scan(path: str, examples: int) -> Shard:
  """Find the records of a file.

  Raises:
    UserError: it is not there, is damaged, or does not hold `examples` records.
    StorageError: it cannot be read now.
  """

  def find() -> tuple[os.stat_result, list[int]]:
    file = OpenFile(path)
    state = os.fstat(file.descriptor)
    bounds, at = [0], 0
    while at < state.st_size:
      header = os.pread(file.descriptor, HEADER.size, at)
      if len(header) < HEADER.size:
        raise damaged(path, f'it ends within the record at byte {at}')
      length, stored = HEADER.unpack(header)
      if masked_checksum(header[:8]) != stored:
        raise damaged(path, f'no record begins at byte {at}')
      if at + length + _OVERHEAD > state.st_size:
        raise damaged(path, f'it ends within the record at byte {at}')
      at += length + _OVERHEAD
      bounds.append(at)
    return state, bounds

  state, bounds = read_existing(path, find)
  if len(bounds) - 1 != examples:
    raise damaged(path, f'it has {len(bounds) - 1} records, but dataset_info.json says {examples}')
  return Shard(stamp(state), np.array(bounds, np.int64))


def masked_checksum(data: bytes) -> int:
  """Return the masked CRC-32C of the format; the plain CRC of data with its CRC is constant."""
  crc = google_crc32c.value(data)
  return ((crc >> 15 | crc << 17) + _MASK) & 0xFFFFFFFF


def is_intact(data: bytes) -> bool:
  """Return True if data ends with its checksum.

  The CRC of data and checksum is compared with that of the checksum, continued from the CRC that it
  stands for. They are equal if and only if that is the CRC of the data, which need not be copied.
  """
  stored = data[-CHECKSUM.size :]
  if len(stored) < CHECKSUM.size:
    return False
  rotated = (CHECKSUM.unpack(stored)[0] - _MASK) & 0xFFFFFFFF
  crc = (rotated << 15 | rotated >> 17) & 0xFFFFFFFF
  return google_crc32c.value(data) == google_crc32c.extend(crc, stored)


def stamp(state: os.stat_result) -> Stamp:
  """Return what changes with the content of a file."""
  return state.st_size, state.st_mtime_ns


def stamp_of(path: str) -> Stamp:
  """Return the stamp of a file; raises as `read_existing`."""
  return stamp(read_existing(path, lambda: os.stat(path)))


def read_existing(path: str, read: Callable[[], T]) -> T:
  """Return `read()`, see `read_retried`; raises `UserError` if the file is not there."""
  try:
    return read_retried(path, read)
  except NOT_THERE as error:
    raise UserError(
      f'{path} cannot be read ({error.strerror}): restore it, or prepare the data set again'
    ) from error


def damaged(path: str, reason: str) -> UserError:
  """Return the error for a file whose bytes are wrong."""
  return UserError(
    f'{path} is damaged ({reason}): copy that file again, or remove {os.path.dirname(path)} '
    'and prepare the data set again'
  )
