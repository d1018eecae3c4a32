"""Image files in folders of classes, or of splits with these inside, local or in a bucket."""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from mixer_jax.data.class_names import are_numbers, positions, some
from mixer_jax.data.image_files import (
  FIRST_SUFFIXES,
  SUFFIXES,
  Files,
  LeftOut,
  images_below,
  is_image,
  real_path,
  report,
  subfolders,
)
from mixer_jax.data.listings import listed, remembered
from mixer_jax.data.source import Source
from mixer_jax.data.splits import names_in, spans, warn_of_repeats
from mixer_jax.errors import UserError, printable
from mixer_jax.paths import user_path

RULES = 2
"""Rules by which a folder is read. Rules 1 are those of runs that were begun before there was a
choice: four file formats, any word for the only split, slices without regard to classes."""

_SPLIT_OF = {
  **dict.fromkeys(('train', 'training'), 'train'),
  **dict.fromkeys(('val', 'valid', 'validation'), 'validation'),
  **dict.fromkeys(('test', 'testing'), 'test'),
}
"""Name of a folder, in lower case -> split."""


def split_folders(folder: str) -> dict[str, str]:
  """Return split -> name of its folder, of a folder with folders such as train/ and val/.

  Such a folder has folders of images inside. Splits are 'train', 'validation' and 'test'.

  Returns:
    Empty if the folders are classes.

  Raises:
    UserError: there is no such folder, or it could be one or the other.
  """
  root = _existing(folder)
  with remembered(root):
    return _split_folders(folder, root)


def _split_folders(folder: str, root: str) -> dict[str, str]:
  names = subfolders(root)
  named = [name for name in names if name.lower() in _SPLIT_OF]
  if not named:
    return {}
  direct = {name for name in named if _has_images_inside(f'{root}/{name}')}
  nested = [name for name in named if _has_class_folder(f'{root}/{name}')]
  if not nested:
    return {}
  others = (name for name in names if name not in named and _has_image(f'{root}/{name}'))
  classes = [*sorted(direct), *others]
  if classes:
    raise UserError(
      f'folder:{folder} has folders of images in {_and(nested)}, as splits have, and images in '
      f'{_and(classes)}, as classes have: move one or the other away, or name the folder of one '
      f'split, folder:{folder}/{nested[0]}'
    )
  splits: dict[str, str] = {}
  for name in nested:
    split = _SPLIT_OF[name.lower()]
    if split in splits:
      raise UserError(
        f'folder:{folder} has {_and([splits[split], name])}, both for the {split} split: merge '
        f'them, or name one, folder:{folder}/{name}'
      )
    splits[split] = name
  return {split: splits[split] for split in dict.fromkeys(_SPLIT_OF.values()) if split in splits}


def has_only_train(folder: str) -> bool:
  """Return True if a folder has no split to evaluate on, as one of class folders."""
  return not set(split_folders(folder)) - {'train'}


def class_names(folder: str) -> tuple[str, ...]:
  """Return the classes of a folder by label: those that have an image, in any split.

  They are in the order of their names, or of their values if all are integers.

  Raises:
    UserError: there is no such folder, or no image.
  """
  root = _existing(folder)
  with remembered(root):
    places = _places(folder)
    return _united(folder, [_class_folders(_join(root, place)) for place in places.values()])


def open_folder(folder: str, split: str = '', rules: int = RULES) -> Source:
  """Open the images of a folder that has one folder per class, or one per split with these inside.

  Splits are the folders train/, val/ (or valid/, validation/) and test/. Without them, the folder
  is its only split, 'train', and '' is all of it. All splits have the same classes: those that
  have an image in any of them, see `class_names`. Names that differ in case alone are one class.

  For slices, such as 'train[:99%]', images are first put in an order in which every part has about
  the same share of each class; within a class it is that of a hash of the path. 'train[99%:]' is
  therefore a held-out part of all classes, the same wherever the folder is, and adding or removing
  an image moves few others between parts.

  Args:
    rules: see `RULES`.

  Raises:
    UserError: no such folder, no class folder with an image, no such split or slice.
  """
  root = _existing(folder)
  with remembered(root):
    if rules == 1:
      return _open_by_first_rules(folder, root, split)
    return _open_by_rules(folder, root, split)


def _open_by_rules(folder: str, root: str, split: str) -> Source:
  places = _places(folder)
  if not split and '' not in places.values():
    known = ', '.join(places.values())
    raise UserError(
      f'folder:{folder}: no split is given; it has {known}, as in folder:{folder}/'
      f'{next(iter(places.values()))}'
    )
  expression = split or 'train'
  used = {name: _place_of(folder, name, split, places) for name in names_in(expression)}
  found = {place: _by_class(_join(root, place)) for place in used.values()}
  names = [
    list(found[place]) if place in found else _class_folders(_join(root, place))
    for place in places.values()
  ]
  classes = _united(folder, names)
  parts = {name: _labelled(found[place], classes) for name, place in used.items()}
  order = _balanced_order if '[' in split else None
  files, labels = _chosen(folder, expression, parts, used, order)
  is_all = '[' not in split and '' in places.values()
  name = f'folder:{folder}' if is_all else f'folder:{folder}/{split}'
  return Source(name, classes, Files(files, labels, root, _real(root, used.values())))


def places_of(folder: str, split: str, rules: int = RULES) -> tuple[str, ...]:
  """Return the folders that a split is in, without links; lists few of their files.

  Raises:
    UserError: there is no such folder or split.
  """
  root = _existing(folder)
  if rules == 1:
    return (real_path(root),)
  places = _places(folder)
  return _real(root, {_place_of(folder, n, split, places) for n in names_in(split or 'train')})


Labelled = tuple[list[str], list[int]]
"""Files and their labels."""
Order = Callable[[Sequence[str], Sequence[int]], np.ndarray]
"""Returns the positions of files in an order for slices."""


def _existing(folder: str) -> str:
  root = user_path(folder)
  if not folder or not root.is_dir():  # an empty name would be the root of all files
    raise UserError(f'no folder {folder}: folder:DIR needs a folder with one folder per class')
  return str(root)


def _join(folder: str, name: str) -> str:
  return f'{folder}/{name}' if folder and name else folder or name


def _real(root: str, places: Iterable[str]) -> tuple[str, ...]:
  return tuple(real_path(_join(root, place)) for place in dict.fromkeys(places))


def _places(folder: str) -> Mapping[str, str]:
  """Return split -> folder in `folder`; a folder of classes is its split train."""
  return split_folders(folder) or {'train': ''}


def _place_of(folder: str, name: str, split: str, places: Mapping[str, str]) -> str:
  found = places.get(_SPLIT_OF.get(name.lower(), ''))
  if found is not None:
    return found
  if '' in places.values():
    raise UserError(
      f'folder:{folder} has no split {split!r}: its folders are classes, so train is all of it. '
      'Hold out a part, as in train[:90%] and train[90%:], or name another folder, as in '
      '--config.data.eval_split=folder:DIR'
    )
  held_out = [place for part, place in places.items() if part != 'train']
  way = f'; set --config.data.eval_split={held_out[0]}' if held_out and name != 'train' else ''
  raise UserError(
    f'folder:{folder} has no split {split!r}: it has {", ".join(places.values())}, with slices as '
    f"in 'train[:90%]'{way}"
  )


def _class_folders(folder: str) -> list[str]:
  """Return the names of the folders that have an image."""
  return [name for name in subfolders(folder) if _has_image(f'{folder}/{name}')]


def _has_class_folder(folder: str) -> bool:
  return any(_has_image(f'{folder}/{name}') for name in subfolders(folder))


def _has_image(folder: str) -> bool:
  return any(True for _ in images_below(folder))


def _has_images_inside(folder: str) -> bool:
  left_out = LeftOut()
  subfolders(folder, left_out)
  return left_out['images beside the class folders'] > 0


def _by_class(folder: str, suffixes: frozenset[str] = SUFFIXES) -> dict[str, list[str]]:
  """Return class folder -> its images, relative to `folder`; logs what is left out."""
  left_out, found = LeftOut(), {}
  above = frozenset({real_path(folder)})
  for name in subfolders(folder, left_out):
    inside = images_below(f'{folder}/{name}', left_out, suffixes, above)
    found[name] = [f'{name}/{file}' for file in inside]
    if not found[name]:
      left_out[f'class without images ({name})'] += 1
  report(folder, left_out)
  return {name: files for name, files in found.items() if files}


def _united(folder: str, names: Iterable[Sequence[str]]) -> tuple[str, ...]:
  """Return the classes of several splits in order, one for names that differ in case alone."""
  classes: list[str] = []
  for these in names:
    classes += [n for n, at in zip(these, positions(these, classes), strict=True) if at is None]
  if not classes:
    raise _no_images(folder)
  return tuple(sorted(classes, key=int if are_numbers(classes) else str))


def _no_images(folder: str) -> UserError:
  return UserError(
    f'no images in {folder}: it needs one folder per class with {", ".join(sorted(SUFFIXES))} files'
  )


def _labelled(by_class: Mapping[str, list[str]], classes: Sequence[str]) -> Labelled:
  """Return the files of a split in the order of labels, and their labels."""
  labels = positions(list(by_class), classes)
  if len(set(labels)) < len(labels):
    names = [name for name, at in zip(by_class, labels, strict=True) if labels.count(at) > 1]
    raise UserError(f'{some(names)} differ in case alone, and another split has one of them: merge')
  files, numbers = [], []
  for label, name in sorted(zip(labels, by_class, strict=True)):
    files += by_class[name]
    numbers += [label] * len(by_class[name])
  return files, numbers


def _chosen(
  folder: str,
  split: str,
  parts: Mapping[str, Labelled],
  places: Mapping[str, str],
  order: Order | None,
) -> Labelled:
  """Return the files of a split expression; `parts` and `places` are by the names in it."""
  sizes = {name: len(files) for name, (files, _) in parts.items()}
  orders = {name: order(*p) if order else np.arange(len(p[0])) for name, p in parts.items()}
  files, labels = [], []
  chosen = spans(split, sizes, f'folder:{folder}')
  warn_of_repeats(f'folder:{folder}/{split}', [s._replace(split=places[s.split]) for s in chosen])
  for name, start, stop in chosen:
    (those, numbers), prefix = parts[name], f'{places[name]}/' if places[name] else ''
    kept = orders[name][start:stop].tolist()
    files += [prefix + those[i] for i in kept]
    labels += [numbers[i] for i in kept]
  if not files:
    count = f'{sum(sizes.values()):,} images'
    raise UserError(f'split {split!r} of folder:{folder} is empty: it has {count}')
  return files, labels


def _hash_order(files: Sequence[str], labels: Sequence[int]) -> np.ndarray:
  del labels
  digests = [hashlib.sha256(n.encode(errors='surrogateescape')).digest() for n in files]
  words = np.frombuffer(b''.join(digests), '>u8').reshape(-1, 4)
  return np.lexsort(words.T[::-1])  # by the first word, then by the next


def _balanced_order(files: Sequence[str], labels: Sequence[int]) -> np.ndarray:
  """Return an order of which every part has about the same share of each class."""
  order, numbers = _hash_order(files, labels), np.asarray(labels, np.int64)
  sizes, classes = np.bincount(numbers), numbers[order]
  rank = np.empty(len(files), np.int64)  # number of images of the same class before it
  rank[np.argsort(classes, kind='stable')] = np.arange(len(files)) - np.repeat(
    np.cumsum(sizes) - sizes, sizes
  )
  share = (rank + 0.5) / sizes[classes]
  return order[np.argsort(share, kind='stable')]


def _open_by_first_rules(folder: str, root: str, split: str) -> Source:
  names = [name for name, kind in listed(root, is_image) if kind == 'folder' and name[0] != '.']
  names.sort(key=int if are_numbers(names) else str)
  found = _by_class(root, FIRST_SUFFIXES)
  classes = tuple(name for name in names if name in found)
  if not classes:
    raise _no_images(folder)
  files, labels = _labelled(found, classes)
  if '[' not in split:
    return Source(f'folder:{folder}', classes, Files(files, labels, root, _real(root, [''])))
  part = files, labels
  parts = dict.fromkeys(names_in(split), part)
  files, labels = _chosen(folder, split, parts, dict.fromkeys(parts, ''), _hash_order)
  records = Files(files, labels, root, _real(root, ['']))
  return Source(f'folder:{folder}/{split}', classes, records)


def _and(names: Sequence[str]) -> str:
  shown = [f'{printable(name)}/' for name in names[:3]] + ['…'] * (len(names) > 3)
  return ', '.join(shown[:-1]) + f' and {shown[-1]}' if len(shown) > 1 else shown[0]
