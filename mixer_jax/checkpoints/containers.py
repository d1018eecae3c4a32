"""Weights files as named arrays: `.npz` and `.safetensors`, distinguished by their contents.

A file is data, never code: nothing is unpickled. Names, shapes and dtypes are read and checked
first, so that only the arrays that are asked for are read, and a file that claims to unpack to
far more than its length is refused unread.
"""

import contextlib
import dataclasses
import errno
import json
import math
import os
import pathlib
import shutil
import sys
import tempfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from typing import IO

import ml_dtypes  # makes NumPy know bfloat16 by its name
import numpy as np
from etils import epath

from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.paths import is_regular, is_remote
from mixer_jax.storage import exists, read_retried, reason

SUFFIXES = ('.npz', '.safetensors')

_FLOATS = {'F16': 'float16', 'BF16': 'bfloat16', 'F32': 'float32', 'F64': 'float64'}
_UNPACKED = (64 * 2**20, 32)
"""A zip may unpack to this many bytes, plus this many times its own length. Weights hardly
compress; but a model grown to four times its image size has 15/16 zeros in the token MLPs."""

_DIRECTORY = 2**22
"""Maximum bytes of the list of arrays: about fifty thousand entries. L/16 has 294."""

_UNREADABLE = (
  OSError,
  EOFError,
  ValueError,
  KeyError,
  SyntaxError,
  RuntimeError,  # an encrypted member; NotImplementedError: an unknown compression
  OverflowError,
  MemoryError,
  RecursionError,
  tokenize.TokenError,
  zipfile.BadZipFile,
  zlib.error,
)
"""Exceptions of zipfile and of NumPy's header reader for bytes that are damaged."""


@dataclasses.dataclass(frozen=True)
class Spec:
  """Shape and dtype of one array."""

  shape: tuple[int, ...]
  dtype: str
  """'float32', or the file's own word if NumPy has no such type."""
  is_float: bool


@dataclasses.dataclass(frozen=True)
class Container:
  """An open file of named arrays."""

  specs: dict[str, Spec]
  read: Callable[[str], np.ndarray]
  """Read the array of this name. Raises `UserError` if the file is damaged."""
  about: dict[str, str] = dataclasses.field(default_factory=dict)
  """Text fields of its header."""


@contextlib.contextmanager
def open_container(path: epath.Path) -> Iterator[Container]:
  """Open a `.npz` or `.safetensors` file, local or in a bucket.

  Raises:
    UserError: no such file, or its contents are not of its suffix; naming the file.
  """
  if not exists(path):
    raise UserError(f'no weights file {path}')
  if not is_regular(path):
    raise UserError(f'{path} is not a regular file')
  with _on_disk(path) as local:
    _check_kind(path, local)
    opened = _open_npz if path.suffix == '.npz' else _open_safetensors
    with opened(local, str(path)) as container:
      yield container


@contextlib.contextmanager
def _on_disk(path: epath.Path) -> Iterator[pathlib.Path]:
  """Return the path of the file, or of a temporary copy of one in a bucket."""
  if not is_remote(path):
    yield pathlib.Path(path)
    return
  with tempfile.NamedTemporaryFile(suffix=path.suffix) as copy:

    def fetch() -> None:
      copy.seek(0)
      copy.truncate()
      with path.open('rb') as remote:
        shutil.copyfileobj(remote, copy, 2**22)

    read_retried(path, fetch)
    copy.flush()
    yield pathlib.Path(copy.name)


def _check_kind(path: epath.Path, local: pathlib.Path) -> None:
  head = read_retried(path, lambda: _head(local))
  kind = None
  if head.startswith(b'version https://git-lfs'):
    raise UserError(f'{path} is the Git LFS pointer to a file: `git lfs pull` fetches the file')
  if head.lstrip().lower().startswith((b'<!doctype html', b'<html')):
    raise UserError(f'{path} is a web page, perhaps one to sign in at: download the file again')
  if head[:4] in (b'PK\x03\x04', b'PK\x05\x06'):
    kind = '.npz'
    with contextlib.suppress(*_UNREADABLE), zipfile.ZipFile(local) as archive:
      if any(name.endswith('/data.pkl') for name in archive.namelist()):
        kind = '.pth'
  elif head[8:9] == b'{':
    kind = '.safetensors'
  elif head[:2] in (b'\x80\x02', b'\x80\x04', b'\x80\x05') or path.suffix in (
    '.pth',
    '.pt',
    '.bin',
  ):
    kind = '.pth'
  if kind == '.pth' or path.suffix in ('.pth', '.pt', '.bin'):
    raise UserError(
      f'{path} is a pickle, which can run any code when it is read: if you trust it, convert it '
      "with `python -c \"import torch, safetensors.torch as s; s.save_file(torch.load('in.pth', "
      "weights_only=True), 'out.safetensors')\"`"
    )
  if path.suffix not in SUFFIXES:
    raise UserError(f'{path}: weights are read from {" and ".join(SUFFIXES)} files')
  if not head:
    raise UserError(f'{path} is empty')
  if kind and kind != path.suffix:
    raise UserError(f'{path} holds {kind[1:]} data: name it *{kind}')


def _head(local: pathlib.Path) -> bytes:
  with local.open('rb') as file:
    return file.read(64)


@contextlib.contextmanager
def _open_npz(local: pathlib.Path, name: str) -> Iterator[Container]:
  with contextlib.ExitStack() as stack:
    with _one_line_errors(name, 'npz'):
      _check_directory(local)
      archive = stack.enter_context(zipfile.ZipFile(local))
      members = _members(archive, local.stat().st_size)
      specs = {key: _npy_spec(archive, member) for key, member in members.items()}

    def read(key: str) -> np.ndarray:
      with _one_line_errors(name, 'npz'), archive.open(members[key]) as file:
        array = np.lib.format.read_array(file, allow_pickle=False)
      return array.view(ml_dtypes.bfloat16) if _is_bfloat16(array.dtype) else array

    yield Container(specs, read)


def _check_directory(local: pathlib.Path) -> None:
  """Check the length of a zip's directory before zipfile reads all of it."""
  with local.open('rb') as file:
    head = file.read(2)
    file.seek(-min(local.stat().st_size, 2**16 + 22), os.SEEK_END)
    tail = file.read()
  end = tail.rfind(b'PK\x05\x06')
  if end < 0 and head.startswith(b'PK'):
    raise ValueError('its end is missing: it was cut off, or not written completely')
  if end >= 0 and int.from_bytes(tail[end + 12 : end + 16], 'little') > _DIRECTORY:
    raise ValueError('it lists more arrays than weights can have')


def _members(archive: zipfile.ZipFile, length: int) -> dict[str, zipfile.ZipInfo]:
  """Array name -> member. Checks sizes before anything is unpacked."""
  members: dict[str, zipfile.ZipInfo] = {}
  for member in archive.infolist():
    key = member.filename.removesuffix('.npy')
    if key == member.filename:
      raise ValueError(f'{member.filename!r} in it is not an array')
    if key in members:
      raise ValueError(f'array {key!r} is in it twice')
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
      raise ValueError(f'array {key!r} is compressed in a way that NumPy does not write')
    members[key] = member
  least, times = _UNPACKED
  if sum(member.file_size for member in members.values()) > least + times * length:
    raise ValueError('it would unpack to more than weights can')
  return members


def _npy_spec(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Spec:
  with archive.open(member) as file:
    shape, dtype = _npy_header(file)
    if dtype.hasobject:
      raise ValueError(f'{member.filename!r} in it is a pickled object')
    size = math.prod(shape) * dtype.itemsize
    if any(side < 0 for side in shape) or file.tell() + size != member.file_size:
      raise ValueError(f'{member.filename!r} in it is not as long as its header says')
  if _is_bfloat16(dtype):
    return Spec(shape, 'bfloat16', is_float=True)
  return Spec(shape, str(dtype), dtype.kind == 'f')


def _is_bfloat16(dtype: np.dtype) -> bool:
  """Return True for the type under which NumPy stores bfloat16, which it does not have."""
  return dtype.kind == 'V' and dtype.itemsize == 2 and dtype.names is None and not dtype.shape


def _npy_header(file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
  version = np.lib.format.read_magic(file)
  readers = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
  }
  if version not in readers:
    raise ValueError(f'a header of version {version}')
  with warnings.catch_warnings():
    warnings.simplefilter('ignore')  # about headers that NumPy reads nevertheless
    shape, _, dtype = readers[version](file)
  return shape, dtype


@contextlib.contextmanager
def _open_safetensors(local: pathlib.Path, name: str) -> Iterator[Container]:
  import safetensors

  with local.open('rb') as file:
    with _one_line_errors(name, 'safetensors', safetensors.SafetensorError):
      # The library checks the header. The data is read without it: its map of the file would
      # count as memory in addition to the arrays.
      length = int.from_bytes(file.read(8), 'little')
      if length > _DIRECTORY:
        raise ValueError('it lists more arrays than weights can have')
      with safetensors.safe_open(str(local), framework='numpy'):
        header = json.loads(file.read(length))
      about = header.pop('__metadata__', None) or {}
      specs = {key: _tensor_spec(entry) for key, entry in header.items()}

    def read(key: str) -> np.ndarray:
      array = np.empty(specs[key].shape, np.dtype(specs[key].dtype))
      with _one_line_errors(name, 'safetensors'):
        file.seek(8 + length + header[key]['data_offsets'][0])
        if file.readinto(array.reshape(-1).view(np.uint8).data) != array.nbytes:
          raise EOFError(f'{key} ends early')
      return array if sys.byteorder == 'little' else array.byteswap()

    yield Container(specs, read, about)


def _tensor_spec(entry: dict) -> Spec:
  dtype: str = entry['dtype']
  return Spec(tuple(entry['shape']), _FLOATS.get(dtype) or dtype, dtype in _FLOATS)


@contextlib.contextmanager
def _one_line_errors(name: str, kind: str, *more: type[Exception]) -> Iterator[None]:
  """Turn whatever the reader of a format raises into one line that names the file."""
  try:
    yield
  except UserError:
    raise
  except OSError as error:
    if error.errno in (None, errno.EINVAL):  # a position before the file's begin
      raise UserError(f'{name} is not a readable .{kind} file: {one_line(error)}') from error
    raise StorageError(f'{name} cannot be read now: {reason(error)}; try again') from error
  except (*_UNREADABLE, *more) as error:
    raise UserError(f'{name} is not a readable .{kind} file: {one_line(error)}') from error
