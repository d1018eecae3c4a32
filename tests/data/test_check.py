"""The check of a source: faults by record, labels by class, and its progress."""

import pytest

from mixer_jax.data import check
from mixer_jax.data.catalog import open_source
from mixer_jax.data.check import check_records
from mixer_jax.errors import StorageError
from tests.helpers.photos import encoded, photo


@pytest.fixture
def source(tmp_path):
  """A source of two classes: three images and one broken file."""
  for index in range(3):
    path = tmp_path / 'ab'[index % 2] / f'{index}.jpg'
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encoded(photo(9, 12, index % 2)))
  (tmp_path / 'b' / 'broken.jpg').write_bytes(b'\xff\xd8 no more')
  return open_source(f'folder:{tmp_path}', '')


def test_faults_and_labels(source):
  result = check_records(source, 134)
  assert (result.records, result.labels) == (4, [2, 2])
  (fault,) = result.faults
  assert 'broken.jpg' in fault
  assert '4 records, 1 of them cannot be used; 2 classes of 2 to 2 images' in result.summary()


def test_equal_faults_are_one_line():
  result = check.RecordCheck('x', 4, ['cut off', 'broken', 'cut off'], [1, 0])
  assert result.fault_lines() == ['cut off (2 records)', 'broken']


def test_progress_sees_parts_of_all_records(source, monkeypatch):
  monkeypatch.setattr(check, '_PART', 3)
  shown = []

  def progress(parts, part_size, size):
    shown.append((part_size, size))
    for part in parts:
      shown.append(list(part))
      yield part

  assert check_records(source, 134, progress).records == 4
  assert shown == [(3, 4), [0, 1, 2], [3]]


def test_a_record_that_cannot_be_read_now_is_no_fault(source, monkeypatch):
  def fail(self, index):
    raise StorageError('b/2.jpg cannot be read now')

  monkeypatch.setattr(type(source.records), '__getitem__', fail)
  with pytest.raises(StorageError, match='cannot be read now'):
    check_records(source, 134)


def test_images_above_the_limit_are_faults(tmp_path):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'large.png').write_bytes(encoded(photo(1001, 1000), 'PNG', compress_level=0))
  (fault,) = check_records(open_source(f'folder:{tmp_path}', ''), 1).faults
  assert '1000 × 1001 pixels, more than config.data.max_megapixels=1' in fault
