"""Memory of batches: used again only when nobody has an array of it."""

import contextlib
import errno
import gc
import os
import pathlib

import numpy as np
import pytest

from mixer_jax.data.slots import Column, Layout, OthersSlots, Slots
from mixer_jax.errors import StorageError

COLUMNS = {
  'image': Column((5, 5, 3), np.dtype(np.uint8)),
  'mask': Column((), np.dtype(bool)),
  'label': Column((), np.dtype(np.int32)),
}
LAYOUT = Layout(7, COLUMNS)


def test_arrays_have_their_shapes_and_do_not_overlap():
  _, batch = Slots(LAYOUT).take()
  for value, (name, (shape, dtype)) in enumerate(COLUMNS.items()):
    assert (batch[name].shape, batch[name].dtype) == ((7, *shape), dtype)
    assert batch[name].ctypes.data % 64 == 0
    batch[name][...] = value
  for value, name in enumerate(COLUMNS):
    assert (batch[name] == value).all()


def test_a_slot_is_used_again_after_its_last_array():
  slots = Slots(LAYOUT, shared=True)
  first, batch = slots.take()
  part = batch['image'][2:3, 1]
  del batch
  second, other = slots.take()
  assert second != first
  del part
  assert slots.take()[0] == first
  del other
  assert os.fstat(slots.file).st_size == 3 * LAYOUT.size


def test_arrays_outlive_their_slots():
  slots = Slots(LAYOUT, shared=True)
  _, batch = slots.take()
  batch['label'][...] = 3
  file = slots.file
  del slots
  with pytest.raises(OSError, match='Bad file descriptor'):
    os.fstat(file)
  assert (batch['label'] == 3).all()


def test_another_process_sees_the_same_memory():
  slots = Slots(LAYOUT, shared=True)
  taken = [slots.take() for _ in range(9)]
  others = OthersSlots(LAYOUT, slots.file)
  for number, batch in reversed(taken):
    others.batch(number)['label'][3] = number
    assert batch['label'][3] == number
  assert sorted(number for number, _ in taken) == list(range(9))


def test_no_memory_is_one_line(monkeypatch):
  def fail(*_):
    raise OSError(12, 'Cannot allocate memory')

  monkeypatch.setattr(os, 'ftruncate', fail)
  with pytest.raises(StorageError, match=r'no memory for a batch .*Cannot allocate.*prefetch'):
    Slots(LAYOUT, shared=True).take()


def test_a_limit_of_the_size_of_files_is_named(monkeypatch):
  def fail(*_):
    raise OSError(errno.EFBIG, 'File too large')

  monkeypatch.setattr(os, 'ftruncate', fail)
  with pytest.raises(StorageError, match=r'ulimit -f.*--config.data.workers=0'):
    Slots(LAYOUT, shared=True).take()


def descriptors_of_slots() -> int:
  count = 0
  for path in pathlib.Path('/proc/self/fd').iterdir():
    with contextlib.suppress(FileNotFoundError):  # that of the listing
      count += 'memfd:mixer_jax batches' in str(path.readlink())
  return count


@pytest.mark.parametrize(('shared', 'descriptors'), [(False, 0), (True, 1 + 7)])
def test_many_slots_take_few_descriptors(shared, descriptors):
  gc.collect()
  before, slots = descriptors_of_slots(), Slots(LAYOUT, shared=shared)
  taken = dict(slots.take() for _ in range(100))
  assert sorted(taken) == list(range(100))
  assert descriptors_of_slots() == before + descriptors
  for number, batch in taken.items():
    batch['image'][...] = number
  for number, batch in taken.items():
    assert (batch['image'] == number).all()
  del slots, taken, batch
  assert descriptors_of_slots() == before


def test_no_descriptor_is_one_line(monkeypatch):
  def fail(*_):
    raise OSError(24, 'Too many open files')

  monkeypatch.setattr(os, 'memfd_create', fail)
  with pytest.raises(StorageError, match=r'Too many open files.*workers=0'):
    Slots(LAYOUT, shared=True)


def test_without_memfd_an_unlinked_file_serves(monkeypatch):
  monkeypatch.delattr(os, 'memfd_create', raising=False)
  slots = Slots(LAYOUT, shared=True)
  number, batch = slots.take()
  batch['label'][...] = 5
  assert (OthersSlots(LAYOUT, slots.file).batch(number)['label'] == 5).all()
  assert os.fstat(slots.file).st_nlink == 0
