"""Image files in folders: classes by name, files by name, folder and pattern."""

import os
import pathlib

import numpy as np
import pytest
import tensorflow_datasets as tfds

from mixer_jax.data import folders
from mixer_jax.data.catalog import open_source
from mixer_jax.errors import UserError
from tests.helpers.photos import encoded


def write(path, level: int = 0):
  path.parent.mkdir(parents=True, exist_ok=True)
  kind = {'.png': 'PNG', '.webp': 'WEBP'}.get(path.suffix.lower(), 'JPEG')
  path.write_bytes(encoded(np.full((8, 8, 3), level, np.uint8), kind))


@pytest.fixture
def tree(tmp_path):
  for name in ('cat/b.jpg', 'cat/a.JPEG', 'dog/inside/c.png', 'ant/d.webp'):
    write(tmp_path / name)
  (tmp_path / 'cat' / 'notes.txt').write_text('not an image')
  (tmp_path / 'empty').mkdir()
  write(tmp_path / '.hidden' / 'e.jpg')
  return tmp_path


def test_a_folder_for_each_class(tree):
  source = open_source(f'folder:{tree}', 'whatever')
  assert source.classes == ('ant', 'cat', 'dog')
  records = [source[i] for i in range(len(source))]
  assert [record['label'] for record in records] == [0, 1, 1, 2]
  assert records[1]['name'] == f'folder:{tree}#1 ({tree}/cat/a.JPEG)'
  assert records[1]['image'] == (tree / 'cat' / 'a.JPEG').read_bytes()


def many(root) -> None:
  for number in range(60):
    write(root / 'ab'[number % 2] / f'{number}.png', number)


def names_of(root, split: str) -> list[str]:
  source = open_source(f'folder:{root}', split)
  return [source[i]['name'].split(f'{root}/')[-1].rstrip(')') for i in range(len(source))]


def test_slices_are_a_fixed_part_and_the_rest(tmp_path):
  many(tmp_path / 'here')
  kept, held_out = (names_of(tmp_path / 'here', s) for s in ('train[:75%]', 'train[75%:]'))
  assert (len(kept), len(held_out)) == (45, 15)
  assert sorted(kept + held_out) == sorted(names_of(tmp_path / 'here', 'train'))
  assert {name[0] for name in held_out} == {'a', 'b'}
  (tmp_path / 'here').rename(tmp_path / 'there')
  assert names_of(tmp_path / 'there', 'test[75%:]') == held_out  # whatever its name is
  assert names_of(tmp_path / 'there', 'train[45:50]+train[-10:]') == held_out
  (tmp_path / 'there' / 'a' / '0.png').unlink()
  after = set(names_of(tmp_path / 'there', 'train[75%:]'))
  assert len(after ^ set(held_out)) <= 2  # few change sides if hashes decide


def test_slices_keep_labels_and_images_together(tmp_path):
  many(tmp_path)
  source = open_source(f'folder:{tmp_path}', 'train[:50%]')
  assert source.classes == ('a', 'b')
  assert source.name == f'folder:{tmp_path}/train[:50%]'
  for i in range(len(source)):
    name = source[i]['name'].split('(')[1].rstrip(')')
    assert source[i]['image'] == pathlib.Path(name).read_bytes()
    assert f'/{source.classes[source[i]["label"]]}/' in name


SLICES = [
  *('train[:99%]', 'train[99%:]', 'train[33%:66%]', 'train[-7%:]', 'train[10:20]', 'train[-5:]'),
  *('train[:10%]+train[90%:]', 'train[:30]+train[20:40]', 'train[:50%] + train[50%:]'),
]


@pytest.mark.parametrize('split', SLICES)
def test_slices_are_as_long_as_those_of_tfds(tmp_path, split):
  many(tmp_path)
  infos = tfds.core.splits.SplitDict([tfds.core.SplitInfo('train', [60], 0)])
  wanted = tfds.core.ReadInstruction.from_spec(split).to_absolute(infos)
  ends = [(part.from_ or 0, 60 if part.to is None else part.to) for part in wanted]
  order = names_of(tmp_path, 'train[0:]')
  assert names_of(tmp_path, split) == [order[i] for begin, end in ends for i in range(begin, end)]


@pytest.mark.parametrize(
  ('split', 'message'),
  [
    ('train[:0]', 'is empty: it has 60 images'),
    ('train[:200%]', 'has no split'),
    ('train[70:80]', 'has no split'),
    ('train[:99', 'has no split'),
    ('[:99%]', 'has no split'),
  ],
)
def test_invalid_slices_are_rejected(tmp_path, split, message):
  many(tmp_path)
  with pytest.raises(UserError, match=message) as error:
    open_source(f'folder:{tmp_path}', split)
  assert '\n' not in str(error.value)


def test_folders_named_by_numbers_are_in_numeric_order(tmp_path):
  for name in range(12):
    write(tmp_path / str(name) / 'a.png')
  assert open_source(f'folder:{tmp_path}', '').classes == tuple(map(str, range(12)))


def test_labels_may_be_those_of_another_list_of_classes(tree):
  source = open_source(f'folder:{tree}', '').renumbered(('dog', 'x', 'ant', 'cat'), (2, 3, 0))
  assert [source[i]['label'] for i in range(4)] == [2, 3, 3, 0]
  assert source.classes[3] == 'cat'


def test_an_unreadable_file_counts_as_undecodable(tree):
  source = open_source(f'folder:{tree}', '')
  (tree / 'ant' / 'd.webp').unlink()
  assert source[0]['image'] == b''


@pytest.mark.parametrize(('name', 'message'), [('none', 'no folder'), ('empty', 'no images in')])
def test_a_missing_or_wrong_folder_is_named(tree, name, message):
  with pytest.raises(UserError, match=f'{message} {tree}/{name}'):
    open_source(f'folder:{tree}/{name}', '')


def test_files_are_found_by_name_folder_and_pattern(tree, monkeypatch):
  monkeypatch.chdir(tree)
  names = lambda *patterns: [str(path) for path in folders.find_images(patterns)]
  assert names('cat/b.jpg') == ['cat/b.jpg']
  assert names('cat') == ['cat/a.JPEG', 'cat/b.jpg']
  assert names('.') == ['ant/d.webp', 'cat/a.JPEG', 'cat/b.jpg', 'dog/inside/c.png']
  assert names('*/*.jp*') == ['cat/b.jpg']
  assert names('**/*.png', 'ant') == ['dog/inside/c.png', 'ant/d.webp']
  with pytest.raises(
    UserError, match=r'no images in empty; nothing matches \*\.gif; no file x\.jpg'
  ):
    names('empty', '*.gif', 'x.jpg')
  write(tree / 'odd[1].png')
  assert names('odd[1].png') == ['odd[1].png']  # an existing file is not a pattern


def test_links_that_lead_back_are_not_followed(tree):
  (tree / 'cat' / 'self').symlink_to('.')
  (tree / 'cat' / 'up').symlink_to('..')
  (tree / 'dog' / 'cats').symlink_to('../cat')  # images of another class may be linked
  source = open_source(f'folder:{tree}', '')
  names = [source[i]['name'] for i in range(len(source))]
  assert len(names) == 6
  assert sum('dog/cats/' in name for name in names) == 2


def test_pipes_and_folders_named_like_images_are_skipped(tree):
  os.mkfifo(tree / 'cat' / 'pipe.png')
  write(tree / 'cat' / 'thing.png' / 'f.jpg')
  (tree / 'cat' / 'gone.jpg').symlink_to('nowhere.jpg')
  source = open_source(f'folder:{tree}', '')
  assert [source[i]['label'] for i in range(len(source))] == [0, 1, 1, 1, 2]
  with pytest.raises(UserError, match=r'pipe\.png is not a regular file'):
    folders.find_images([str(tree / 'cat' / 'pipe.png')])


def test_an_image_that_is_named_twice_is_used_once(tree):
  found = folders.find_images([str(tree / 'cat'), str(tree / 'cat' / 'b.jpg')])
  assert len(found) == 2
