"""Contents of folders that are remembered: as they are listed, and listed again after a change."""

import logging
import os
import pathlib
import pickle
import pty
import sys
import termios

import pytest

from mixer_jax.data import listings
from mixer_jax.data.catalog import open_source
from mixer_jax.data.image_files import Files, find_images
from mixer_jax.data.names import Names

ODD = os.fsdecode(b'caf\xe9 \xc3\xa4\n.jpg')


@pytest.fixture
def tree(tmp_path, monkeypatch) -> pathlib.Path:
  """Two splits of two classes, which changed long ago; the cache is of this test."""
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path / 'cache'))
  monkeypatch.setattr(listings, '_FEWEST', 1)
  monkeypatch.setattr(listings, '_YOUNG', -1.0)
  for split, name in (('train', 'a'), ('train', 'b'), ('val', 'a'), ('val', 'b')):
    folder = tmp_path / 'tree' / split / name
    folder.mkdir(parents=True)
    for file in ('1.jpg', 'notes.txt', ODD):
      (folder / file).touch()
  return tmp_path / 'tree'


@pytest.fixture
def scanned(monkeypatch) -> list[str]:
  """Folders that are listed."""
  found, scan = [], os.scandir

  def noting(path):
    found.append(os.path.relpath(path, path if path == '.' else os.path.dirname(path)))
    return scan(path)

  monkeypatch.setattr(listings.os, 'scandir', noting)
  return found


def opened(tree: pathlib.Path, split: str = 'train') -> list[str]:
  """Return the files of a split as another process finds them."""
  listings._load.cache_clear()
  records = open_source(f'folder:{tree}', split).records
  assert isinstance(records, Files)
  return list(records.files)


def test_an_unchanged_folder_is_not_listed_again(tree, scanned):
  first = opened(tree)
  assert first == [f'train/{c}/{n}' for c in 'ab' for n in ('1.jpg', ODD)]
  assert sorted(set(scanned)) == ['a', 'b', 'train', 'tree', 'val']
  scanned.clear()
  assert (opened(tree), scanned) == (first, [])
  assert len(opened(tree, 'train[50%:]')) == 2
  assert len(find_images([str(tree / 'train')])) == 4
  listings._load.cache_clear()
  assert (len(find_images([str(tree)])), len(opened(tree, 'val'))) == (8, 4)
  assert set(scanned) <= {'train', 'a', 'b'}  # `find_images` has a root of its own


CHANGES = {
  'added': lambda folder: (folder / '2.jpg').touch(),
  'removed': lambda folder: (folder / '1.jpg').unlink(),
  'renamed': lambda folder: (folder / '1.jpg').rename(folder / '3.jpg'),
  'a folder now': lambda folder: ((folder / '1.jpg').unlink(), (folder / '1.jpg').mkdir()),
  'inside': lambda folder: ((folder / 'x').mkdir(), (folder / 'x' / '9.jpg').touch()),
  'another folder': lambda folder: (
    folder.rename(folder.parents[2] / 'away'),
    folder.mkdir(),
    (folder / '7.jpg').touch(),
  ),
}


@pytest.mark.parametrize('change', CHANGES)
def test_a_changed_folder_is_listed_again(tree, scanned, change):
  opened(tree)
  scanned.clear()
  CHANGES[change](tree / 'train' / 'b')
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(listings, '_load', lambda root: {})
    patch.setattr(listings._Listings, 'store', lambda self: None)
    wanted = list(open_source(f'folder:{tree}', 'train').records.files)  # pyright: ignore
  scanned.clear()
  assert opened(tree) == wanted
  assert 'b' in scanned
  assert 'a' not in scanned
  scanned.clear()
  assert (opened(tree), scanned) == (wanted, [])


def test_a_modification_time_that_was_set_back_is_noticed(tree):
  opened(tree)
  state = os.stat(tree / 'train' / 'b')
  (tree / 'train' / 'b' / '2.jpg').touch()
  os.utime(tree / 'train' / 'b', ns=(state.st_atime_ns, state.st_mtime_ns))
  assert 'train/b/2.jpg' in opened(tree)


def test_a_folder_with_links_is_listed_each_time(tree, scanned):
  target = tree.parent / 'image.jpg'
  target.touch()
  (tree / 'train' / 'b' / '8.jpg').symlink_to(target)
  assert 'train/b/8.jpg' in opened(tree)
  target.unlink()  # which no time of the folder shows
  scanned.clear()
  assert 'train/b/8.jpg' not in opened(tree)
  assert 'a' not in scanned


def test_a_folder_that_has_just_changed_is_listed_again(tree, scanned, monkeypatch):
  monkeypatch.setattr(listings, '_YOUNG', 60.0)
  opened(tree)
  scanned.clear()
  opened(tree)
  assert {'a', 'b'} <= set(scanned)
  assert not list(tree.parent.rglob('*.npz'))


@pytest.mark.parametrize(
  ('kind', 'keeps'), [('ext4', True), ('nfs4', True), ('fuse.gcsfuse', False), ('fuse', False)]
)
def test_file_systems_of_buckets_are_listed_each_time(tree, scanned, monkeypatch, kind, keeps):
  mounts = f'/dev/a / ext4 rw 0 0\nb {tree.parent} {kind} rw 0 0\nc {tree}x fuse rw 0 0\n'
  monkeypatch.setattr(listings.pathlib.Path, 'read_text', lambda *_, **__: mounts)
  opened(tree)
  scanned.clear()
  opened(tree)
  assert (not scanned) == keeps


@pytest.mark.parametrize('content', [b'', b'no index', None])
def test_a_damaged_file_in_the_cache_is_written_again(tree, scanned, content):
  wanted = opened(tree)
  (path,) = tree.parent.rglob('*.npz')
  intact = path.read_bytes()
  path.write_bytes(intact[:-99] if content is None else content)
  assert opened(tree) == wanted
  scanned.clear()
  assert (opened(tree), scanned) == (wanted, [])


def test_without_a_cache_folder_folders_are_listed(tree, scanned, monkeypatch, caplog):
  wanted = opened(tree)
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tree / 'train' / 'a' / '1.jpg' / 'below'))
  scanned.clear()
  assert opened(tree) == wanted
  assert {'a', 'b'} <= set(scanned)
  assert not [r for r in caplog.records if r.levelno > logging.WARNING]


def test_progress_is_shown_on_a_terminal_when_it_takes_long(tree, monkeypatch):
  ticks = iter(range(0, 10**6, 2))
  monkeypatch.setattr('tqdm.std.time', lambda: next(ticks))
  monkeypatch.setattr(listings, '_STEP', 1)
  leader, follower = pty.openpty()
  with os.fdopen(follower, 'w') as terminal, os.fdopen(leader, 'rb', buffering=0) as screen:
    termios.tcsetwinsize(terminal, (25, 200))
    monkeypatch.setattr(sys, 'stderr', terminal)
    opened(tree)
    assert f'listing {tree}'.encode() in screen.read(10000)


def test_names_are_those_of_a_list():
  names = ['a/b.jpg', '', ODD, '漢.png', 'x' * 300]
  packed = Names(iter(names))
  assert (list(packed), len(packed)) == (names, 5)
  assert [packed[i] for i in range(5)] == names
  assert packed[-1] == names[-1]
  with pytest.raises(IndexError):
    packed[5]
  assert list(pickle.loads(pickle.dumps(packed))) == names
  assert (list(Names([])), len(Names([]))) == ([], 0)


def test_many_files_are_small_to_send():
  names = [f'n{i // 1000:08}/n{i // 1000:08}_{i % 1000:05}.JPEG' for i in range(100_000)]
  assert len(pickle.dumps(Files(names, [0] * len(names), '/root'))) < 48 * len(names)
