"""Scalars as TensorBoard reads them: TFRecords of `Event` messages, written without TensorFlow."""

import os
import socket
import struct
import time
from collections.abc import Mapping

import google_crc32c
from etils import epath

from mixer_jax import storage
from mixer_jax.runlog.appended import AppendedFile

# Wire types of protocol buffers.
_VARINT, _DOUBLE, _BYTES, _FLOAT = 0, 1, 2, 5


class TensorBoardFile:
  """An events file of one start of a run.

  Args:
    folder: of the events, local or in a bucket; it is made.

  Raises:
    StorageError: the disk or bucket refuses.
  """

  def __init__(self, folder):
    place = epath.Path(folder)
    storage.write_retried(place, lambda: place.mkdir(parents=True, exist_ok=True))
    name = f'events.out.tfevents.{time.time():.6f}.{socket.gethostname()}.{os.getpid()}'
    self._file = AppendedFile(place / name)
    self._write(_field(3, _BYTES, b'brain.Event:2'))

  def scalars(self, step: int, values: Mapping[str, float]) -> None:
    """Append an event with values of this step by name."""
    summary = b''.join(
      _field(1, _BYTES, _field(1, _BYTES, name.encode()) + _field(2, _FLOAT, value))
      for name, value in values.items()
    )
    self._write(_field(2, _VARINT, step) + _field(5, _BYTES, summary))

  def flush(self) -> None:
    """Write events that are held back."""
    self._file.flush()

  def _write(self, event: bytes) -> None:
    event = _field(1, _DOUBLE, time.time()) + event
    length = struct.pack('<Q', len(event))
    self._file.append(length + _checksum(length) + event + _checksum(event))


def _field(number: int, wire: int, value) -> bytes:
  """Return a field of a protocol buffer."""
  key = _varint(number << 3 | wire)
  if wire == _VARINT:
    return key + _varint(value)
  if wire == _BYTES:
    return key + _varint(len(value)) + value
  return key + struct.pack('<d' if wire == _DOUBLE else '<f', value)


def _varint(value: int) -> bytes:
  low = value & 0x7F
  return bytes([low]) if value < 0x80 else bytes([low | 0x80]) + _varint(value >> 7)


def _checksum(data: bytes) -> bytes:
  """Return the masked CRC-32C of a TFRecord."""
  crc = google_crc32c.value(data)
  return struct.pack('<I', ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
