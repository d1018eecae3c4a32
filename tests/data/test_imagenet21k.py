"""ImageNet-21k from tiny archives that the tests make."""

import collections
import pathlib
import shutil
import tarfile

import pytest

from mixer_jax.data import imagenet21k
from mixer_jax.data.catalog import open_source
from mixer_jax.data.decode import decode
from mixer_jax.errors import UserError
from tests.helpers.archives import CLASSES, EACH, add, image, put_archive


def prepared(data_dir: pathlib.Path, *, unpacked: bool) -> pathlib.Path:
  put_archive(data_dir, unpacked=unpacked)
  builder = imagenet21k.Imagenet21k(
    data_dir=data_dir, num_classes=len(CLASSES), file_format='array_record'
  )
  builder.download_and_prepare()
  return data_dir


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory) -> pathlib.Path:
  return prepared(tmp_path_factory.mktemp('packed'), unpacked=False)


def records(folder: pathlib.Path, split: str) -> list[dict]:
  source = open_source('imagenet21k', split, str(folder))
  return [source[i] for i in range(len(source))]


def images(folder: pathlib.Path, split: str) -> list[bytes]:
  return [record['image'] for record in records(folder, split)]


def test_every_image_is_stored_once_and_unchanged_with_its_class(data_dir):
  source = open_source('imagenet21k', 'train', str(data_dir))
  assert source.classes == CLASSES
  wanted = {(image(n, i), n, f'{CLASSES[n]}_{i}.JPEG') for n in range(4) for i in range(EACH)}
  found = [source[i] for i in range(len(source))]
  assert len(found) == len(wanted)
  names = {record['name'].partition('(')[2].rstrip(')') for record in found}
  assert names == {name for _, _, name in wanted}
  assert {(r['image'], r['label']) for r in found} == {pair[:2] for pair in wanted}
  assert decode(found[0]['image']).shape == (8, 8, 3)


def test_the_held_out_part_is_fixed_and_has_all_classes(data_dir, tmp_path):
  kept, held_out = (images(data_dir, split) for split in ('train[:75%]', 'train[75%:]'))
  assert (len(kept), len(held_out)) == (90, 30)
  assert not set(kept) & set(held_out)
  labels = collections.Counter(r['label'] for r in records(data_dir, 'train[75%:]'))
  assert set(labels) == {0, 1, 2, 3}
  unpacked = prepared(tmp_path / 'unpacked', unpacked=True)
  assert images(unpacked, 'train') == kept + held_out  # in the same order, from either form


def test_a_name_in_two_classes_is_two_images(tmp_path):
  path = put_archive(tmp_path, unpacked=True)
  for number in (0, 1):
    with tarfile.open(path / f'{CLASSES[number]}.tar', 'a') as tar:
      add(tar, 'again.JPEG', image(3, number))
  builder = imagenet21k.Imagenet21k(
    data_dir=tmp_path, num_classes=len(CLASSES), file_format='array_record'
  )
  builder.download_and_prepare()
  assert len(records(tmp_path, 'train')) == 4 * EACH + 2


def test_it_must_be_prepared_first(tmp_path):
  with pytest.raises(UserError, match=r'in .*: run `mixer-jax data prepare imagenet21k'):
    open_source('imagenet21k', 'train', str(tmp_path))


def build(folder: pathlib.Path, **kwargs) -> None:
  imagenet21k.Imagenet21k(data_dir=folder, **kwargs).download_and_prepare()


def test_a_wrong_archive_is_explained(tmp_path, monkeypatch):
  manual = put_archive(tmp_path).parent
  with pytest.raises(ValueError, match='has 4 classes, not 21,843: is it complete'):
    build(tmp_path)
  usage = shutil.disk_usage(tmp_path)._replace(free=1000)
  monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage)
  with pytest.raises(OSError, match=r'needs room for 0.0 GiB, and 0.0 GiB are free'):
    build(tmp_path, num_classes=4)
  monkeypatch.undo()
  archive = (manual / 'fall11_whole.tar').read_bytes()
  for part in (archive[: len(archive) // 2], b'no tar' * 1000):
    (manual / 'fall11_whole.tar').write_bytes(part)
    with pytest.raises(ValueError, match=r'fall11_whole.tar is damaged or not a tar'):
      build(tmp_path, num_classes=4)
  (manual / 'fall11_whole.tar').unlink()
  (manual / 'something.else').touch()
  with pytest.raises(FileNotFoundError, match=r'no fall11_whole.tar in .*: put fall11_whole.tar'):
    build(tmp_path)
  shutil.rmtree(manual)
  path = put_archive(tmp_path / 'unpacked', unpacked=True) / f'{CLASSES[1]}.tar'
  path.write_bytes(path.read_bytes()[:9000])
  with pytest.raises(ValueError, match=rf'{path} is damaged'):
    build(tmp_path / 'unpacked', num_classes=4)
  assert not list(tmp_path.rglob('imagenet21k-*'))
