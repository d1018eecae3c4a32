"""Limits of images: number of pixels, scans of a JPEG, and the memory that all threads take.

A file of 100 kB can hold 130 million pixels, or a JPEG that takes minutes. Its header and markers
show that before anything is decoded.
"""

import contextlib
import functools
import os
import pathlib
import threading
from collections.abc import Iterator

import simplejpeg

from mixer_jax.data.decode import UndecodableError, is_webp, jpeg_segments, opened
from mixer_jax.errors import StorageError

_MAX_SCANS = 100
"""Scans of a JPEG: encoders make about ten, and each takes as long as decoding a small image."""
_FAST = 2**37
"""Bytes times pixels of a JPEG that is decoded within seconds however many scans it has; the
scans of usual photographs are not counted."""
_LARGE = 2**22
"""Pixels of an image whose memory counts: that of smaller ones is small for any number of
threads."""
_BYTES_PER_PIXEL = 20
"""Measured peaks are 4 (JPEG) to 20 (JPEG 2000)."""


_NOTHING_HELD = contextlib.nullcontext()


def admitted(data: bytes, max_megapixels: int) -> contextlib.AbstractContextManager[None]:
  """Check the size of an encoded image; decode and resize it in the context that is returned.

  Threads with large images take turns, so that all together use at most half of the memory that
  is available. An image that needs more than that is decoded alone.

  Raises:
    UndecodableError: it is larger than the limit, has too many scans, or is not an image.
    StorageError: in the context, if there is not enough memory for a large image.
  """
  pixels = check(data, max_megapixels)
  return _NOTHING_HELD if pixels < _LARGE else _memory().held(pixels * _BYTES_PER_PIXEL)


def check(data: bytes, max_megapixels: int) -> int:
  """Return the number of pixels of an encoded image; raises as `admitted`."""
  width, height = size_of(data)
  pixels = width * height
  if pixels > max_megapixels * 10**6:
    raise UndecodableError(
      f'{width} × {height} pixels, more than config.data.max_megapixels={max_megapixels}'
    )
  if len(data) * pixels > _FAST and data[:2] == b'\xff\xd8':
    _check_scans(data)
  return pixels


def size_of(data: bytes) -> tuple[int, int]:
  """Return (width, height) of an encoded image; reads its header only.

  Raises:
    UndecodableError: `data` is not an image.
  """
  # Pillow reads all headers, and takes up to 30 times as long.
  if data[:2] == b'\xff\xd8':
    try:
      height, width, *_ = simplejpeg.decode_jpeg_header(data, strict=False)
      return width, height
    except (ValueError, KeyError):  # malformed, which Pillow may read nevertheless
      pass
  elif data[12:16] == b'IHDR' and len(data) > 24:  # PNG
    return int.from_bytes(data[16:20], 'big'), int.from_bytes(data[20:24], 'big')
  elif is_webp(data):
    return _size_of_webp(data)
  with opened(data) as image:
    return image.size


def _size_of_webp(data: bytes) -> tuple[int, int]:
  number = lambda first, last: int.from_bytes(data[first:last], 'little')
  if data[12:16] == b'VP8X':
    return number(24, 27) + 1, number(27, 30) + 1
  if data[12:16] == b'VP8L':
    return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
  return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF


def _check_scans(data: bytes) -> None:
  scans = 0
  for marker, _ in jpeg_segments(data):
    scans += marker == 0xDA
    if scans > _MAX_SCANS:
      raise UndecodableError(f'a JPEG of more than {_MAX_SCANS} scans')


class Memory:
  """Bytes that threads share.

  Args:
    size: bytes in all.
  """

  def __init__(self, size: int):
    self._size = self._free = size
    self._changed = threading.Condition()

  @contextlib.contextmanager
  def held(self, amount: int) -> Iterator[None]:
    """Wait until this many bytes are free, or all of them if it is more, and hold them."""
    amount = min(amount, self._size)
    with self._changed:
      self._changed.wait_for(lambda: self._free >= amount)
      self._free -= amount
    try:
      yield
    except MemoryError as error:
      raise StorageError(
        'there is not enough memory for a large image: lower config.data.threads or '
        'config.data.max_megapixels'
      ) from error
    finally:
      with self._changed:
        self._free += amount
        self._changed.notify_all()


_processes = 1


def share_memory(processes: int) -> None:
  """Leave room for other processes that also decode; call it before the first image."""
  global _processes
  _processes = processes


@functools.cache
def _memory() -> Memory:
  return Memory(available_bytes() // 2 // _processes)


def available_bytes() -> int:
  """Return the memory that this process can use, in bytes: of the machine or of its container."""
  found = [os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES')]
  with contextlib.suppress(OSError, ValueError, IndexError):
    lines = pathlib.Path('/proc/meminfo').read_text().splitlines()
    found += [1024 * int(line.split()[1]) for line in lines if line.startswith('MemAvailable')]
  for limit in _CONTAINER_LIMITS:
    with contextlib.suppress(OSError, ValueError):  # ValueError: 'max', there is none
      found.append(int(pathlib.Path(limit).read_text()))
  return min(found)


_CONTAINER_LIMITS = (
  '/sys/fs/cgroup/memory.max',
  '/sys/fs/cgroup/memory/memory.limit_in_bytes',  # cgroup 1
)
