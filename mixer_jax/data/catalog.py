"""The catalog of data sets: opens one by name and reports the names of its classes."""

import functools
import os

from mixer_jax.data import tasks
from mixer_jax.data.folders import RULES, open_folder
from mixer_jax.data.source import Source
from mixer_jax.data.splits import Span, below, spans, warn_of_repeats
from mixer_jax.data.task_records import class_names, open_task, task_parts
from mixer_jax.data.tfds_builders import (
  check_name,
  check_place,
  check_readable,
  facts,
  prepared_builder,
  random_access,
)
from mixer_jax.errors import UserError
from mixer_jax.paths import is_remote


def open_source(name: str, split: str, data_dir: str = '', folder_rules: int = RULES) -> Source:
  """Open the records of `split` of the data set `name`; images stay encoded.

  Args:
    name: a TFDS name ('cifar10', 'imagenet2012:5.1.0', …); 'digits', which is included and
      prepared on first use; 'imagenet21k'; a task of `tasks.suite`, such as 'vtab/clevr_count'; or
      'folder:DIR', with one folder per class, or per split and class.
    split: TFDS slicing: 'train', 'train[:99%]', 'test[100:200]'. For a task one of its parts:
      'train800', 'test[:10%]'. For a folder see `open_folder`.
    data_dir: folder of prepared TFDS data sets; '' is TFDS's default.
    folder_rules: see `folders.RULES`.

  Raises:
    UserError: no such data set or split, or its file format has no random access (array_record
      and TFRecord have).
  """
  if name.startswith('folder:'):
    return open_folder(name.removeprefix('folder:'), split, folder_rules)
  if tasks.is_task(name):
    return open_task(tasks.find_task(name), split, data_dir)
  if is_remote(name) or os.path.isdir(name):
    raise UserError(f'data set {name!r}: for a folder of images, write folder:{name}')
  import tensorflow_datasets as tfds  # takes a second, without TensorFlow

  check_place(data_dir)
  builder = prepared_builder(name, data_dir)
  features = builder.info.features
  # ImageNet ReaL has the original label and a list of correct ones.
  key = 'original_label' if features is not None and 'original_label' in features else 'label'
  accepted = 'real_label' if features is not None and 'real_label' in features else None
  if features is None or not {'image', key} <= set(features):
    raise UserError(f'data set {name} does not have images with one label each')
  label = features[key]
  if not isinstance(label, tfds.features.ClassLabel) or label.num_classes is None:
    raise UserError(f'data set {name}: its labels are not classes')
  if not split:
    raise UserError(f'data set {name}: no split is given; it has {_known_splits(builder)}')
  try:
    size = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise UserError(
      f'data set {name} has no split {split!r}: it has {_known_splits(builder)}, '
      "with slices as in 'train[:99%]'"
    ) from error
  if size <= 0:
    raise UserError(f'split {split!r} of data set {name} is empty')
  paths = [path for path in ('image', key, accepted, 'file_name') if path and path in features]
  records = random_access(builder, name, split, paths)
  parts = spans(split, builder.info.splits, f'data set {name}')
  warn_of_repeats(f'{name}/{split}', parts)
  source = Source(
    f'{name}/{split}',
    tuple(label.names),
    records,
    key,
    accepted,
    stored=below(builder.data_dir, parts),
    facts=facts(builder, split),
  )
  check_readable(source, name, builder.data_dir)
  return source


def stored_parts(name: str, split: str, data_dir: str = '') -> tuple[Span, ...]:
  """Return what `Source.stored` is for a TFDS data set or a task; opens none of its records.

  Raises:
    UserError: there is no such data set or split, or it is not prepared.
  """
  check_place(data_dir)
  if tasks.is_task(name):
    return task_parts(tasks.find_task(name), split, data_dir)
  builder = prepared_builder(name, data_dir)
  return below(builder.data_dir, spans(split, builder.info.splits, f'data set {name}'))


def class_ids(name: str) -> tuple[str, ...]:
  """Return the class names of a TFDS data set or a task as stored (ImageNet's are WordNet ids).

  The data set need not be prepared.

  Raises:
    UserError: there is no such data set, or its labels are not classes.
  """
  import tensorflow_datasets as tfds

  if name == 'digits':
    return tuple(str(digit) for digit in range(10))
  if tasks.is_task(name):
    task = tasks.find_task(name)
    return class_names(task, tfds.builder(task.data_set, try_gcs=False).info.features)
  check_name(name)
  try:
    return tuple(tfds.builder(name, try_gcs=False).info.features['label'].names)
  except (KeyError, TypeError, AttributeError, ValueError, ImportError) as error:
    raise UserError(f'data set {name} has no class names') from error


def in_english(ids: tuple[str, ...]) -> tuple[str, ...]:
  """Return class names, with ImageNet's WordNet ids replaced by words."""
  if len(ids) == 1000 and ids[0] == 'n01440764':
    from tensorflow_datasets.datasets.siscore import labels  # TFDS has the words here

    if len(labels.IMAGENET_LABELS_LIST) == len(ids):
      return tuple(labels.IMAGENET_LABELS_LIST)
  return ids


@functools.cache
def _imagenet_names() -> dict[str, tuple[str, ...]]:
  """Return WordNet id -> its words as one text, and each of them alone."""
  ids = class_ids('imagenet2012')
  return {i: (words, *words.split(', ')) for i, words in zip(ids, in_english(ids), strict=True)}


def class_aliases(name: str) -> tuple[str, ...]:
  """Return further names of a class: the words of a WordNet id of ImageNet."""
  is_id = len(name) == 9 and name[0] == 'n' and name[1:].isdecimal()
  return _imagenet_names().get(name, ()) if is_id else ()


def _known_splits(builder) -> str:
  return ', '.join(builder.info.splits)
