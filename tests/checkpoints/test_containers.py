"""Files that are not what they seem: one line that names the file, and nothing is unpacked."""

import errno
import io
import json
import os
import pathlib
import pickle
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import safetensors.numpy

import mixer_jax
from mixer_jax.errors import StorageError, UserError
from tests.helpers import reference

NPZ = (reference.DATA / 'mixer_tiny.npz').read_bytes()
TENSORS = (reference.DATA / 'mixer_tiny.timm.safetensors').read_bytes()


def refused(path, data: bytes | None = None) -> str:
  """What is said of a file with these bytes."""
  if data is not None:
    path.write_bytes(data)
  with pytest.raises(UserError) as error:
    mixer_jax.load(path)
  text = str(error.value)
  assert text.startswith(str(path))
  assert '\n' not in text
  return text


def npy(array: np.ndarray, **header) -> bytes:
  """An .npy member, with another header where one is given."""
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    file, {**np.lib.format.header_data_from_array_1_0(array), **header}
  )
  return file.getvalue() + array.tobytes()


def zipped(members: dict[str, bytes], compression=zipfile.ZIP_STORED) -> bytes:
  file = io.BytesIO()
  with zipfile.ZipFile(file, 'w', compression) as archive:
    for name, data in members.items():
      archive.writestr(name, data)
  return file.getvalue()


@pytest.mark.parametrize('suffix', ['.npz', '.safetensors'])
@pytest.mark.parametrize('kind', ['empty', 'text', 'cut', 'flipped', 'head', 'tail'])
def test_damaged_files(tmp_path, suffix, kind):
  whole = NPZ if suffix == '.npz' else TENSORS
  data = {
    'empty': b'',
    'text': b'no weights at all',
    'cut': whole[: len(whole) // 2],
    'flipped': whole[:1] + bytes([whole[1] ^ 255]) + whole[2:],
    'head': whole[100:],
    'tail': whole[:-3],
  }[kind]
  refused(tmp_path / f'w{suffix}', data)


def test_a_flipped_bit_in_an_array_of_an_npz_is_found(tmp_path):
  assert 'Bad CRC-32' in refused(
    tmp_path / 'w.npz', NPZ[:5000] + bytes([NPZ[5000] ^ 1]) + NPZ[5001:]
  )


def test_the_wrong_suffix_is_named_with_the_right_one(tmp_path):
  assert 'holds safetensors data: name it *.safetensors' in refused(tmp_path / 'a.npz', TENSORS)
  assert 'holds npz data: name it *.npz' in refused(tmp_path / 'a.safetensors', NPZ)
  assert 'weights are read from .npz and .safetensors' in refused(tmp_path / 'a.h5', NPZ)


def test_pickles_are_never_read(tmp_path):
  class Trap:
    def __reduce__(self):
      return (open, (str(tmp_path / 'sprung'), 'w'))

  evil = pickle.dumps({'stem.proj.weight': Trap()})
  for name in ('a.pth', 'a.bin', 'a.npz', 'a.safetensors'):
    assert 'torch.load' in refused(tmp_path / name, evil)
  assert 'torch.load' in refused(tmp_path / 'b.pth', zipped({'archive/data.pkl': evil}))
  assert 'torch.load' in refused(tmp_path / 'c.npz', zipped({'archive/data.pkl': evil}))
  np.savez(tmp_path / 'd.npz', allow_pickle=True, **{'stem/kernel': np.array([Trap()], object)})
  assert 'is a pickled object' in refused(tmp_path / 'd.npz')
  assert not (tmp_path / 'sprung').exists()


def test_zip_bombs_are_refused_unread(tmp_path):
  big = np.zeros((2**27,), np.float32)  # half a gibibyte of zeros: half a megabyte in the file
  np.savez_compressed(tmp_path / 'bomb.npz', head=big)
  del big
  tracemalloc.start()
  assert 'would unpack to more than weights can' in refused(tmp_path / 'bomb.npz')
  assert tracemalloc.get_traced_memory()[1] < 2**22
  tracemalloc.stop()


def test_endless_lists_of_arrays_are_refused_unread(tmp_path):
  many = zipped({f'{i:0>200}.npy': b'' for i in range(2**15)})
  assert 'lists more arrays than weights can have' in refused(tmp_path / 'w.npz', many)
  long = {
    f'{i:0>200}': {'dtype': 'F32', 'shape': [0], 'data_offsets': [0, 0]} for i in range(2**15)
  }
  assert 'lists more arrays than weights can have' in refused(
    tmp_path / 'w.safetensors', tensors(long)
  )
  extra = {f'{i}.npy': npy(np.zeros(1, np.float32)) for i in range(3000)}
  for name in ('MixerBlock_0/LayerNorm_0/bias', 'head/bias'):
    extra[f'{name}.npy'] = npy(np.zeros(3, np.float32))
  text = refused(tmp_path / 'w.npz', zipped(extra))
  assert text.count(';') == 2000
  assert text.endswith('more')


def test_members_that_lie_about_their_length_are_refused(tmp_path):
  array = np.zeros((4, 5), np.float32)
  for header in ({'shape': (2**40, 2**20)}, {'shape': (4, 4)}, {'shape': (-4, -5)}):
    data = zipped({'stem/bias.npy': npy(array, **header)})
    assert 'not as long as its header says' in refused(tmp_path / 'w.npz', data)


def test_members_that_are_no_arrays_are_refused(tmp_path):
  array = npy(np.zeros(3, np.float32))
  assert "'readme.txt' in it is not an array" in refused(
    tmp_path / 'w.npz', zipped({'a.npy': array, 'readme.txt': b'hello'})
  )
  lzma = zipped({'a.npy': array}, zipfile.ZIP_LZMA)
  assert 'compressed in a way' in refused(tmp_path / 'w.npz', lzma)
  twice = zipped({'a.npy': array, 'b.npy': array}).replace(b'b.npy', b'a.npy')
  assert "array 'a' is in it twice" in refused(tmp_path / 'w.npz', twice)
  refused(tmp_path / 'w.npz', zipped({}))
  refused(tmp_path / 'w.npz', zipped({'a.npy': b'not an array'}))


def tensors(header: dict, data: bytes = b'') -> bytes:
  text = json.dumps(header).encode()
  return struct.pack('<Q', len(text)) + text + data


def test_headers_of_safetensors_that_lie_are_refused(tmp_path):
  path = tmp_path / 'w.safetensors'
  entry = {'dtype': 'F32', 'shape': [2], 'data_offsets': [0, 8]}
  refused(path, tensors({'a': entry}))
  refused(path, tensors({'a': {**entry, 'shape': [2**62, 4]}}, bytes(8)))
  refused(path, tensors({'a': {**entry, 'data_offsets': [4, 12]}}, bytes(12)))
  refused(path, tensors({'a': entry, 'b': entry}, bytes(8)))
  refused(path, tensors({'a': {**entry, 'dtype': 'F33'}}, bytes(8)))
  refused(path, struct.pack('<Q', 2**60) + b'{' + bytes(50))
  assert 'holds I16, expected floats' in refused(path, as_integers())


def as_integers() -> bytes:
  arrays = safetensors.numpy.load(TENSORS)
  header, offset = {}, 0
  for name, array in arrays.items():
    end = offset + 2 * array.size
    header[name] = {'dtype': 'I16', 'shape': array.shape, 'data_offsets': [offset, end]}
    offset = end
  return tensors(header, bytes(offset))


def test_what_is_downloaded_in_the_place_of_weights_is_named(tmp_path):
  pointer = b'version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 239000000\n'
  for suffix in ('.npz', '.safetensors'):
    path = tmp_path / f'w{suffix}'
    assert 'is the Git LFS pointer to a file' in refused(path, pointer)
    assert 'is a web page' in refused(path, b'\n<!DOCTYPE html><html><title>Sign in</title></html>')
  assert 'its end is missing: it was cut off' in refused(tmp_path / 'w.npz', NPZ[:20_000])


@pytest.mark.parametrize('data', [NPZ, TENSORS], ids=['npz', 'safetensors'])
def test_an_error_of_reading_is_not_the_files(tmp_path, monkeypatch, data):
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0')
  path = tmp_path / ('w.npz' if data is NPZ else 'w.safetensors')
  path.write_bytes(data)
  opened = pathlib.Path.open

  def fail(self, *args, **kwargs):
    if self == path:
      raise OSError(errno.EIO, 'Input/output error')
    return opened(self, *args, **kwargs)

  monkeypatch.setattr(pathlib.Path, 'open', fail)
  with pytest.raises(StorageError, match=r'w\..* cannot be read now: Input/output error'):
    mixer_jax.load(path)


def test_a_named_pipe_is_no_weights_file(tmp_path):
  os.mkfifo(tmp_path / 'w.npz')
  assert 'is not a regular file' in refused(tmp_path / 'w.npz')


@pytest.mark.parametrize('address', ['htp://a/w.npz', 's3://bucket/w.npz', 'ftp://a/b'])
def test_addresses_that_cannot_be_read_are_one_line(address):
  with pytest.raises(UserError, match=address) as error:
    mixer_jax.load(address)
  assert '\n' not in str(error.value)


def test_a_file_may_have_an_address():
  assert mixer_jax.load(f'file://{reference.DATA}/mixer_tiny.npz')[0].num_classes == 7
