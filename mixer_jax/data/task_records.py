"""A task -> its records, labelled as the task has it. Nothing here depends on TensorFlow."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from mixer_jax.data.source import Source
from mixer_jax.data.splits import ranges
from mixer_jax.data.tasks import Task
from mixer_jax.data.tfds_builders import (
  check_place,
  check_readable,
  prepared_builder,
  random_access,
)
from mixer_jax.errors import UserError

_FILE_NAMES = ('file_name', 'image/file_name', 'filename', 'name', 'id')


def open_task(task: Task, split: str, data_dir: str = '') -> Source:
  """The records of a part of a task, labelled as the task has it, images still encoded.

  Args:
    task: of `suite` or `find_task`.
    split: one of `task.splits`, such as 'test', or a slice of it, such as 'test[:10%]'.
    data_dir: where TFDS keeps prepared data sets; '' is its own default.

  Raises:
    UserError: no such part; the data set is not prepared, or not whole, or cannot be read at
      random; on reading, a record that has no label of the task.
  """
  part, bracket, _ = split.partition('[')
  whole = task.split(part)
  check_place(data_dir)
  builder = prepared_builder(task.data_set, data_dir)
  classes = class_names(task, builder.info.features)
  try:
    size = builder.info.splits[whole].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    counts = ', '.join(f'{n} of {builder.info.splits[n].num_examples}' for n in builder.info.splits)
    raise UserError(
      f'task {task.name} takes {whole!r} for {part}, and data set {task.data_set} in '
      f'{builder.data_dir} has the splits {counts}: prepare all of it'
    ) from error
  chosen = range(size)
  if bracket:
    chosen = _chosen(task, split, size)
  if not chosen:
    raise UserError(f'task {task.name}: split {split!r} of data set {task.data_set} is empty')
  records = random_access(builder, task.data_set, whole)
  source = Source(f'{task.name}/{split}', classes, _Labelled(records, task, chosen))
  check_readable(source, task.data_set, builder.data_dir)
  return source


def _chosen(task: Task, split: str, size: int) -> range:
  """Which records of a part of `size` are in a slice of it."""
  parts = ranges(split, size, f'task {task.name}')
  if len(parts) != 1:
    raise UserError(f'task {task.name}: {split!r} is more than one part; name one')
  return range(*parts[0])


@dataclasses.dataclass(frozen=True)
class _Labelled(Sequence):
  """The chosen records of a data set as a task sees them, translated when they are read."""

  records: Sequence
  task: Task
  chosen: range

  def __len__(self) -> int:
    return len(self.chosen)

  def __getitem__(self, index: SupportsIndex):  # pyright: ignore[reportIncompatibleMethodOverride]
    index = self.chosen[index.__index__()]
    stored = self.records[index]
    label, image = self.task.label(stored), stored['image']
    if not 0 <= label < self.task.classes:
      raise UserError(
        f'record {index} of data set {self.task.data_set} has no label of task {self.task.name} '
        f'({label} is not one of 0 to {self.task.classes - 1}): prepare the data set anew'
      )
    translated = {'image': self.task.image(image) if self.task.image else image, 'label': label}
    for key in _FILE_NAMES:
      if key in stored:
        return {**translated, 'file_name': stored[key]}
    return translated


def class_names(task: Task, features: Any) -> tuple[str, ...]:
  """The names of the task's classes, in a data set that has these TFDS features.

  Raises:
    UserError: what the task reads is not there.
  """
  import tensorflow_datasets as tfds

  for path in ('image', *task.reads):
    if not _has(features, path.split('/')):
      raise UserError(
        f'data set {task.data_set} has no feature {path}, which task {task.name} reads: it was '
        'prepared by another version of TFDS; prepare it anew'
      )
  if task.class_names:
    return task.class_names
  label = features[task.reads[0]]
  if not isinstance(label, tfds.features.ClassLabel) or label.num_classes != task.classes:
    raise UserError(
      f'data set {task.data_set}: {task.reads[0]} is not of the {task.classes} classes of task '
      f'{task.name}; prepare it anew'
    )
  return tuple(label.names)


def _has(features: Any, path: Iterable[str]) -> bool:
  """Whether a feature of TFDS has another within it. A sequence passes names on to its element."""
  for name in path:
    try:
      features = features[name]
    except (KeyError, TypeError):
      return False
  return True
