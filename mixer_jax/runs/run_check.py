"""A training run checked before it starts, also on a machine that does not have its data."""

import logging

from mixer_jax import storage
from mixer_jax.data import catalog, tasks
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.tfds_builders import NotPreparedError, check_name, check_place
from mixer_jax.errors import UserError
from mixer_jax.paths import is_remote, user_path
from mixer_jax.runs.data_splits import open_evaluated, open_split, open_train
from mixer_jax.runs.evaluation_setup import check_recipe
from mixer_jax.runs.initial_model import new_model
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.runs.workdir import check_stored

log = logging.getLogger(__name__)


def check_run(config: RunConfig, workdir: str) -> None:
  """Check config, workdir and data as far as this machine can; touches no device, writes nothing.

  Names of data sets and numbers of classes are checked in any case. Splits are checked where the
  data are here or in a bucket; that they are not here is logged.

  Raises:
    UserError: a run would be refused.
    StorageError: a file cannot be read now.
  """
  check_stored(user_path(workdir), config)
  if not config.data.name:
    raise UserError('no data set: set --config.data.name, such as digits or imagenet2012')
  check_recipe(config.data)
  classes = _check_data(config.data)
  if is_remote(config.init_from) and not storage.exists(user_path(config.init_from)):
    raise UserError(f'config.init_from: there is no {config.init_from}')
  if config.init_from or classes is None:
    return
  model = new_model(config.model)
  config.data.resized_side(model.image_size)  # raises if it is smaller
  if model.num_classes != classes:
    raise UserError(
      f'the model has {model.num_classes} classes and {config.data.name} {classes}: train with '
      f'--config.model.num_classes={classes}'
    )


def _check_data(data: DataConfig) -> int | None:
  """Check what can be known of the data here; return their number of classes if it is known."""
  if not data.name.startswith('folder:'):
    return _check_data_set(data)
  folder = user_path(data.name.removeprefix('folder:'))
  if not is_remote(folder) and not storage.exists(folder):
    log.warning('%s is not on this machine: the data are not checked', folder)
    return None
  train = open_train(data)
  open_evaluated(data)
  if data.test_split:
    open_split(data, data.test_split)
  return len(train.classes)


def _check_data_set(data: DataConfig) -> int | None:
  check_place(data.data_dir)
  if tasks.is_task(data.name):
    tasks.find_task(data.name)
  else:
    check_name(data.name)
  if data.name != 'digits':  # which is prepared when it is opened
    try:
      for split in filter(None, (data.train_split, data.eval_split, data.test_split)):
        if not split.startswith('folder:'):
          catalog.stored_parts(data.name, split, data.data_dir)
    except NotPreparedError:
      log.warning('%s is not prepared on this machine: its splits are not checked', data.name)
  try:
    return len(catalog.class_ids(data.name))
  except UserError:  # only the prepared data set has them
    return None
