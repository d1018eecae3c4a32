"""Records of a task, with the task's labels. Nothing here depends on TensorFlow."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any, SupportsIndex

from mixer_jax.data.source import Source
from mixer_jax.data.splits import Span, below, cut, ranges, spans
from mixer_jax.data.tasks import Task
from mixer_jax.data.tfds_builders import (
  check_place,
  check_readable,
  facts,
  prepared_builder,
  random_access,
)
from mixer_jax.errors import UserError

_FILE_NAMES = ('file_name', 'image/file_name', 'filename', 'name', 'id')


def open_task(task: Task, split: str, data_dir: str = '') -> Source:
  """Open the records of a part of a task, with the task's labels; images stay encoded.

  Args:
    task: from `suite` or `find_task`.
    split: one of `task.splits`, such as 'test', or a slice of it, such as 'test[:10%]'.
    data_dir: folder of prepared TFDS data sets; '' is TFDS's default.

  Raises:
    UserError: no such part; the data set is not prepared, incomplete, or without random access; on
      reading, a record without a label of the task.
  """
  check_place(data_dir)
  builder = prepared_builder(task.data_set, data_dir)
  classes = class_names(task, builder.info.features)
  full_split, chosen = _located(task, split, builder)
  file_name = [name for name in _FILE_NAMES if name in builder.info.features][:1]
  paths = ('image', *task.reads, *file_name)
  records = random_access(builder, task.data_set, full_split, paths)
  source = Source(
    f'{task.name}/{split}',
    classes,
    _Labelled(records, task, chosen),
    stored=_stored(task, full_split, chosen, builder),
    facts=facts(builder, full_split),
  )
  check_readable(source, task.data_set, builder.data_dir)
  return source


def task_parts(task: Task, split: str, data_dir: str = '') -> tuple[Span, ...]:
  """Return what `Source.stored` is for `open_task`; opens none of the records.

  Raises:
    UserError: as `open_task`.
  """
  builder = prepared_builder(task.data_set, data_dir)
  return _stored(task, *_located(task, split, builder), builder)


def _stored(task: Task, full_split: str, chosen: range, builder) -> tuple[Span, ...]:
  parts = spans(full_split, builder.info.splits, f'data set {task.data_set}')
  return below(builder.data_dir, cut(parts, chosen.start, chosen.stop))


def _located(task: Task, split: str, builder) -> tuple[str, range]:
  """Return the TFDS split that a part of a task is from, and the positions in it."""
  part, bracket, _ = split.partition('[')
  full_split = task.split(part)
  try:
    size = builder.info.splits[full_split].num_examples
  except (KeyError, ValueError, AssertionError) as error:
    counts = ', '.join(f'{n} ({builder.info.splits[n].num_examples})' for n in builder.info.splits)
    raise UserError(
      f'task {task.name} takes {full_split!r} for {part}, and data set {task.data_set} in '
      f'{builder.data_dir} has the splits {counts}: prepare all of it'
    ) from error
  chosen = range(size)
  if bracket:
    chosen = _chosen(task, split, size)
  if not chosen:
    raise UserError(f'task {task.name}: split {split!r} of data set {task.data_set} is empty')
  return full_split, chosen


def _chosen(task: Task, split: str, size: int) -> range:
  """Return the records of a part of `size` examples that are in a slice of it."""
  parts = ranges(split, size, f'task {task.name}')
  if len(parts) != 1:
    raise UserError(f'task {task.name}: {split!r} names several parts; name one')
  return range(*parts[0])


@dataclasses.dataclass(frozen=True)
class _Labelled(Sequence):
  """Chosen records of a data set, with the labels of a task, converted on access."""

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
        f'({label} is not one of 0 to {self.task.classes - 1}): prepare the data set again'
      )
    converted = {'image': self.task.image(image) if self.task.image else image, 'label': label}
    for key in _FILE_NAMES:
      if key in stored:
        return {**converted, 'file_name': stored[key]}
    return converted


def class_names(task: Task, features: Any) -> tuple[str, ...]:
  """Return the names of the task's classes, for a data set with these TFDS features.

  Raises:
    UserError: a feature that the task reads is missing.
  """
  import tensorflow_datasets as tfds

  for path in ('image', *task.reads):
    if not _has(features, path.split('/')):
      raise UserError(
        f'data set {task.data_set} has no feature {path}, which task {task.name} reads: it was '
        'prepared by another version of TFDS; prepare it again'
      )
  if task.class_names:
    return task.class_names
  label = features[task.reads[0]]
  if not isinstance(label, tfds.features.ClassLabel) or label.num_classes != task.classes:
    raise UserError(
      f'data set {task.data_set}: {task.reads[0]} does not have the {task.classes} classes of task '
      f'{task.name}; prepare it again'
    )
  return tuple(label.names)


def _has(features: Any, path: Iterable[str]) -> bool:
  """Return True if a TFDS feature has one at this path, also within sequences."""
  for name in path:
    try:
      features = features[name]
    except (KeyError, TypeError):
      return False
  return True
