"""Warnings and refusals where images that were learned from are evaluated."""

import logging

from mixer_jax.checkpoints import Checkpoint
from mixer_jax.data import tasks
from mixer_jax.data.catalog import stored_parts
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.folders import places_of
from mixer_jax.data.image_files import Files
from mixer_jax.data.overlap import shared, shared_parts
from mixer_jax.data.source import Source
from mixer_jax.errors import UserError
from mixer_jax.runs.config_versions import stored_config
from mixer_jax.runs.data_splits import held_out, open_train
from mixer_jax.runs.run_config import RunConfig

log = logging.getLogger(__name__)


def warn_if_trained_on(evaluated: Source, *trained: Source) -> None:
  """Log a warning if images of a split are training images."""
  for source in {source.name: source for source in trained}.values():
    _warn(evaluated, source.name, shared(source, evaluated))


def warn_if_run_trained_on(checkpoint: Checkpoint, evaluated: Source, data_dir: str) -> None:
  """Log a warning if images of a split are training images of the checkpoint's run.

  Training data that are not here are not looked for elsewhere.

  Args:
    data_dir: where the evaluated data set is, if it is one of TFDS.
  """
  if not checkpoint.metadata.get('config'):
    return
  try:
    data = RunConfig.from_fields(stored_config('the checkpoint', checkpoint.metadata)).data
    _warn(evaluated, f'{data.name}/{data.train_split}', _shared_with_run(data, evaluated, data_dir))
  except UserError as error:  # it is of another version, or its data are elsewhere
    log.info('%s is not compared with the training images: %s', evaluated.name, error)


def _shared_with_run(data: DataConfig, evaluated: Source, data_dir: str) -> int:
  folder = data.name.removeprefix('folder:')
  if folder != data.name:
    if not isinstance(evaluated.records, Files):
      return 0
    data = held_out(data)  # without its log line: it is about other images than the evaluated ones
    places = places_of(folder, data.train_split, data.folder_rules)
    return shared(open_train(data), evaluated) if evaluated.records.is_near(places) else 0
  if not evaluated.stored or _tfds_name(data.name) != _tfds_name(evaluated.name):
    return 0
  return shared_parts(stored_parts(data.name, data.train_split, data_dir), evaluated.stored)


def _tfds_name(name: str) -> str:
  """Return the TFDS data set of a data set, a task or the name of a source."""
  parts = name.split('/')
  if tasks.is_task(name):
    name = tasks.find_task('/'.join(parts[:2])).data_set
  return name.split('/')[0].split(':')[0]


def _warn(evaluated: Source, trained: str, count: int) -> None:
  if count:
    log.warning(
      '%s of the %s images of %s are training images (%s): accuracies on them say little about new '
      'images',
      f'{count:,}',
      f'{len(evaluated):,}',
      evaluated.name,
      trained,
    )


def check_apart(tested: Source, learned: Source) -> None:
  """Raises `UserError` if a classifier would be tested on images that it learns from."""
  if count := shared(learned, tested):
    raise UserError(
      f'{count:,} of the {len(tested):,} images of {tested.name} are among those of '
      f'{learned.name}, which are learned from: take two parts, as in '
      '--config.data.train_split=train[:80%] --config.data.eval_split=train[80%:]'
    )
