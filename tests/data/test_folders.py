"""Image files in folders: classes by name, files by name, folder and pattern."""

import errno
import hashlib
import logging
import os
import pathlib
import types

import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath

from mixer_jax import storage
from mixer_jax.data import folders, image_files
from mixer_jax.data.catalog import open_source
from mixer_jax.data.decode import decode
from mixer_jax.errors import StorageError, UserError
from tests.helpers.photos import encoded, photo


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
  source = open_source(f'folder:{tree}', 'train')
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
  assert names_of(tmp_path / 'there', 'train[75%:]') == held_out  # wherever it is
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


def test_an_empty_folder_does_not_change_the_order_of_numbers(tmp_path):
  for name in ('1', '2', '10'):
    write(tmp_path / name / 'a.png')
  (tmp_path / 'new folder').mkdir()
  assert open_source(f'folder:{tmp_path}', '').classes == ('1', '2', '10')
  assert folders.class_names(str(tmp_path)) == ('1', '2', '10')


def test_parts_have_the_same_share_of_each_class(tmp_path):
  for name, count in (('a', 40), ('b', 10), ('c', 20)):
    for number in range(count):
      path = tmp_path / name / f'{number}.png'
      path.parent.mkdir(exist_ok=True)
      path.write_bytes(b'')
  for part, wanted in (('[:90%]', (36, 9, 18)), ('[90%:]', (4, 1, 2)), ('[50%:]', (20, 5, 10))):
    source = open_source(f'folder:{tmp_path}', f'train{part}')
    counts = np.bincount([source[i]['label'] for i in range(len(source))])
    np.testing.assert_allclose(counts, wanted, atol=0.5)


def test_the_first_rules_are_kept_for_runs_that_began_by_them(tmp_path):
  """The orders were written down before the second rules were there."""
  for name in ('1', '2', '10'):
    for number in range(4):
      write(tmp_path / name / f'{number}.png', number)
    write(tmp_path / name / '4.bmp')
  (tmp_path / 'empty').mkdir()
  whole = open_source(f'folder:{tmp_path}', 'any', folder_rules=1)
  assert (whole.classes, len(whole)) == (('1', '10', '2'), 12)
  part = open_source(f'folder:{tmp_path}', 'x[:3]+y[50%:75%]', folder_rules=1)
  digest = lambda name: hashlib.sha256(name.encode()).digest()
  names = sorted((f'{c}/{i}.png' for c in ('1', '2', '10') for i in range(4)), key=digest)
  wanted = [*names[:3], *names[6:9]]
  assert isinstance(part.records, image_files.Files)
  assert list(part.records.files) == wanted
  assert [part.classes[part[i]['label']] for i in range(6)] == [n.split('/')[0] for n in wanted]


def test_labels_may_be_those_of_another_list_of_classes(tree):
  source = open_source(f'folder:{tree}', '').renumbered(('dog', 'x', 'ant', 'cat'), (2, 3, 0))
  assert [source[i]['label'] for i in range(4)] == [2, 3, 3, 0]
  assert source.classes[3] == 'cat'


def test_a_file_that_was_removed_since_is_named(tree):
  source = open_source(f'folder:{tree}', '')
  (tree / 'ant' / 'd.webp').unlink()
  with pytest.raises(UserError, match=r'ant/d\.webp was removed after its folder was listed'):
    source[0]


def test_a_file_that_cannot_be_read_now_is_read_again_or_a_storage_error(tree, monkeypatch):
  source = open_source(f'folder:{tree}', '')
  read, faults = epath.Path.read_bytes, [errno.EIO, errno.ESTALE]

  def failing(path):
    if faults:
      raise OSError(faults.pop(), 'not now', str(path))
    return read(path)

  monkeypatch.setattr(type(epath.Path(tree)), 'read_bytes', failing)
  assert source[0]['image'] == (tree / 'ant' / 'd.webp').read_bytes()
  faults[:] = [errno.EIO] * 100
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0')
  with pytest.raises(StorageError, match=r'd\.webp cannot be read now'):
    source[0]


def test_a_folder_that_cannot_be_listed_now_is_listed_again_or_a_storage_error(tree, monkeypatch):
  scan, faults = os.scandir, [errno.EIO]

  def failing(path):
    if faults and str(path).endswith('cat'):
      raise OSError(faults.pop(), 'not now', str(path))
    return scan(path)

  monkeypatch.setattr(os, 'scandir', failing)
  assert len(open_source(f'folder:{tree}', '')) == 4
  faults[:] = [errno.EACCES] * 100
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0')
  with pytest.raises(StorageError, match='cat cannot be read now'):
    open_source(f'folder:{tree}', '')
  with pytest.raises(StorageError, match='cat cannot be read now'):
    image_files.find_images([str(tree)])


FORMATS = {
  'jpg': 'JPEG',
  'JPE': 'JPEG',
  'jfif': 'JPEG',
  'png': 'PNG',
  'webp': 'WEBP',
  'gif': 'GIF',
  'bmp': 'BMP',
  'tif': 'TIFF',
  'TIFF': 'TIFF',
  'avif': 'AVIF',
  'jp2': 'JPEG2000',
  'ppm': 'PPM',
}


def test_all_formats_that_are_decoded_are_taken(tmp_path):
  image = photo(24, 30)
  for folder in 'ab':
    (tmp_path / folder).mkdir()
    for suffix, kind in FORMATS.items():
      (tmp_path / folder / f'x.{suffix}').write_bytes(encoded(image, kind))
  source = open_source(f'folder:{tmp_path}', '')
  assert len(source) == 2 * len(FORMATS)
  assert all(decode(source[i]['image']).shape == (24, 30, 3) for i in range(len(source)))
  assert len(image_files.find_images([str(tmp_path / 'a')])) == len(FORMATS)


def test_what_is_left_out_is_counted_in_one_line(tree, caplog):
  (tree / 'cat' / 'gone.jpg').symlink_to('nowhere.jpg')
  (tree / 'cat' / 'loop.jpg').symlink_to('loop.jpg')
  (tree / 'cat' / 'Thumbs').write_text('')
  os.mkfifo(tree / 'dog' / 'pipe.png')
  (tree / 'dog' / 'x.heic').write_text('')
  (tree / 'lost+found').mkdir(mode=0)
  (tree / 'ant' / '__MACOSX').mkdir()
  write(tree / 'sheet.png')
  (tree / 'labels.csv').write_text('')
  with caplog.at_level(logging.INFO):
    open_source(f'folder:{tree}', '')
    open_source(f'folder:{tree}', 'train[:50%]')
  (line,) = [record.getMessage() for record in caplog.records if 'left out' in record.getMessage()]
  assert line.startswith(f'{tree}: left out ')
  assert sorted(line.split('left out ')[1].split(', ')) == [
    '.csv 1',
    '.heic 1',
    '.txt 1',
    '__MACOSX 1',
    'broken links 2',
    'class without images (empty) 1',
    'hidden 1',
    'images beside the class folders 1',
    'lost+found 1',
    'special files 1',
    'without an extension 1',
  ]


def test_what_predict_leaves_out_is_counted(tree, caplog):
  image_files.find_images([str(tree)])
  assert f'{tree}: left out hidden 1, .txt 1' in caplog.text


@pytest.mark.parametrize(('name', 'message'), [('none', 'no folder'), ('empty', 'no images in')])
def test_a_missing_or_wrong_folder_is_named(tree, name, message):
  with pytest.raises(UserError, match=f'{message} {tree}/{name}'):
    open_source(f'folder:{tree}/{name}', '')


def test_files_are_found_by_name_folder_and_pattern(tree, monkeypatch):
  monkeypatch.chdir(tree)
  names = lambda *patterns: [str(path) for path in image_files.find_images(patterns)]
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
    image_files.find_images([str(tree / 'cat' / 'pipe.png')])


def test_an_image_that_is_named_twice_is_used_once(tree):
  found = image_files.find_images([str(tree / 'cat'), str(tree / 'cat' / 'b.jpg')])
  assert len(found) == 2


def test_where_files_may_be_lacking_the_wait_for_retries_is_once(tmp_path, monkeypatch):
  names = [str(tmp_path / f'{i}.png') for i in range(4)]
  monkeypatch.setenv('MIXER_JAX_RETRY_SECONDS', '0.35')
  now, tries = [0.0], []
  clock = types.SimpleNamespace(
    monotonic=lambda: now[0], sleep=lambda seconds: now.append(now.pop() + seconds)
  )
  monkeypatch.setattr(storage, 'time', clock)

  def unreadable(path):
    tries.append(path.name)
    raise OSError(errno.EIO, 'Input/output error')

  monkeypatch.setattr(epath.Path('.').__class__, 'read_bytes', unreadable)
  for retry_all, expected in ((True, [3, 3, 3, 3]), (False, [3, 1, 1, 1])):
    files = image_files.Files(names, [0] * 4, retry_all=retry_all)
    for index in range(4):
      with pytest.raises(StorageError, match=f'{index}.png cannot be read now'):
        files[index]
    assert [tries.count(f'{index}.png') for index in range(4)] == expected
    tries.clear()


def test_the_order_for_slices_is_by_share_of_the_class_and_then_by_hash():
  """It is that of plain Python, by which runs were begun."""
  rng = np.random.default_rng(0)
  for count in (0, 1, 2, 500):
    labels = rng.integers(0, 5, count).tolist()
    files = [f'{label}/{i}é.jpg' for i, label in enumerate(labels)]
    by_hash = sorted(range(count), key=lambda i: hashlib.sha256(files[i].encode()).digest())
    seen, share = dict.fromkeys(range(5), 0), [0.0] * count
    for i in by_hash:
      share[i] = (seen[labels[i]] + 0.5) / labels.count(labels[i])
      seen[labels[i]] += 1
    wanted = sorted(by_hash, key=share.__getitem__)
    assert folders._balanced_order(files, labels).tolist() == wanted
