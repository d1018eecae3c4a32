"""The catalog of data sets: opens one by name and reports the names of its classes."""

import os

from mixer_jax.data import tasks
from mixer_jax.data.folders import open_folder
from mixer_jax.data.source import Source
from mixer_jax.data.task_records import class_names, open_task
from mixer_jax.data.tfds_builders import (
  check_name,
  check_place,
  check_readable,
  prepared_builder,
  random_access,
)
from mixer_jax.errors import UserError


def open_source(name: str, split: str, data_dir: str = '') -> Source:
  """The records of `split` of the data set `name`.

  Args:
    name: a TFDS name ('cifar10', 'imagenet2012:5.1.0', …); 'digits', the embedded
      one, which is prepared on first use; 'imagenet21k'; a task of `tasks.suite`, such as
      'vtab/clevr_count'; or 'folder:DIR', with a folder a class.
    split: TFDS slicing: 'train', 'train[:99%]', 'test[100:200]'. Of a task one of its parts:
      'train800', 'test[:10%]'. Of a folder only the slice matters, see `open_folder`.
    data_dir: folder where TFDS keeps prepared data sets; '' is its own default.

  Raises:
    UserError: no such data set or split, or it is prepared in a way that cannot be read
      at random: array_record and TFRecord can.
  """
  if name.startswith('folder:'):
    return open_folder(name.removeprefix('folder:'), split)
  if tasks.is_task(name):
    return open_task(tasks.find_task(name), split, data_dir)
  if '://' in name or os.path.isdir(name):
    raise UserError(f'data set {name!r}: to take a folder of images, write folder:{name}')
  import tensorflow_datasets as tfds  # takes a second, without TensorFlow

  check_place(data_dir)
  builder = prepared_builder(name, data_dir)
  features = builder.info.features
  # ImageNet ReaL has the label of old, and a list of those that are right.
  key = 'original_label' if features is not None and 'original_label' in features else 'label'
  accepted = 'real_label' if features is not None and 'real_label' in features else None
  if features is None or not {'image', key} <= set(features):
    raise UserError(f'data set {name} is not one of images with one label each')
  label = features[key]
  if not isinstance(label, tfds.features.ClassLabel) or label.num_classes is None:
    raise UserError(f'data set {name}: its labels are not classes')
  if not split:
    raise UserError(f'data set {name}: no split was named; it has {_known_splits(builder)}')
  try:
    size = builder.info.splits[split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    raise UserError(
      f'data set {name} has no split {split!r}: it has {_known_splits(builder)}, '
      "sliced as in 'train[:99%]'"
    ) from error
  if size <= 0:
    raise UserError(f'split {split!r} of data set {name} is empty')
  records = random_access(builder, name, split)
  source = Source(f'{name}/{split}', tuple(label.names), records, key, accepted)
  check_readable(source, name, builder.data_dir)
  return source


def class_ids(name: str) -> tuple[str, ...]:
  """Class names of a data set of TFDS or a task, as they are stored (ImageNet's are WordNet ids).

  It need not be prepared.

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
  """Class names, where they are ImageNet's WordNet ids, in words."""
  if len(ids) == 1000 and ids[0] == 'n01440764':
    from tensorflow_datasets.datasets.siscore import labels  # the words, which TFDS has there

    if len(labels.IMAGENET_LABELS_LIST) == len(ids):
      return tuple(labels.IMAGENET_LABELS_LIST)
  return ids


def _known_splits(builder) -> str:
  return ', '.join(builder.info.splits)
