"""The splits of a config's data, opened."""

import dataclasses
import functools
import logging

from mixer_jax.data.catalog import open_source
from mixer_jax.data.class_names import matched
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.folders import has_only_train
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError

log = logging.getLogger(__name__)


def with_held_out(data: DataConfig) -> DataConfig:
  """As `held_out`; a part that is held out is logged."""
  complete = held_out(data)
  if complete is not data:
    _log_held_out(data.name)
  return complete


def held_out(data: DataConfig) -> DataConfig:
  """Return a config that evaluates on a held-out tenth of a folder that has no other split.

  A folder of class folders has the split train alone. With the default splits, train and test,
  the last tenth of it is evaluated and the rest is trained on. Other configs are unchanged.

  Raises:
    UserError: there is no such folder.
  """
  if (
    data.folder_rules == 1
    or not data.name.startswith('folder:')
    or (data.train_split, data.eval_split) != ('train', 'test')
    or not has_only_train(data.name.removeprefix('folder:'))
  ):
    return data
  return dataclasses.replace(data, train_split='train[:90%]', eval_split='train[90%:]')


@functools.cache  # once: a command asks for several splits
def _log_held_out(name: str) -> None:
  log.info(
    '%s has no test split: train[90%%:], a tenth of each class, is held out for evaluation, and '
    'train[:90%%] is trained on',
    name,
  )


def open_split(data: DataConfig, split: str, name: str = '') -> Source:
  """Open a split of a config's data.

  Args:
    split: of the data set, or 'folder:DIR', another folder.
    name: another data set than the config's, with its splits.

  Raises:
    UserError: there is no such data set or split.
  """
  if split.startswith('folder:'):
    return open_source(split, '')
  return open_source(name or data.name, split, data.data_dir, data.folder_rules)


def open_train(data: DataConfig) -> Source:
  """Open the training split; raises `UserError` as `open_split`."""
  split = with_held_out(data).train_split
  if split.startswith('folder:'):
    raise UserError(
      f'config.data.train_split is a part of config.data.name: set --config.data.name={split}, and '
      '--config.data.train_split=train'
    )
  return open_split(data, split)


def open_evaluated(data: DataConfig) -> Source:
  """Open the evaluation split; raises `UserError` as `open_split`."""
  return open_split(data, with_held_out(data).eval_split)


def with_classes_of(train: Source, source: Source) -> Source:
  """Return a split with its classes numbered as those of the training split, by their names.

  Raises:
    UserError: the training split lacks some; they are listed.
  """
  return matched(source, train.classes, train.name, 'rename its folders, or take them away')
