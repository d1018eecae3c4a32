"""Preparation of a data set or of the data set of a task, by name."""

from mixer_jax.data.prepare import prepare
from mixer_jax.data.tasks import find_task, is_task
from mixer_jax.data.tfds_builders import check_name, check_place
from mixer_jax.errors import UserError


def prepare_data_set(name: str, data_dir: str = '', *, classes: int | None = None) -> str:
  """Download a data set and write it to disk as array_record; returns its name in TFDS.

  Args:
    name: a TFDS name, such as 'cifar10'; 'digits' or 'imagenet21k'; or a task, such as
      'vtab/clevr_count', whose data set is prepared.
    data_dir: where TFDS keeps its data sets; '' is its own default.
    classes: number of classes in the archive of 'imagenet21k', where it is not the fall-2011
      release.

  Raises:
    UserError: there is no such data set, or it could not be prepared.
  """
  data_set = find_task(name).data_set if is_task(name) else name
  check_name(data_set)
  check_place(data_dir)
  if classes is not None and data_set != 'imagenet21k':
    raise UserError(f'classes can be set for imagenet21k only: those of {data_set} are known')
  reason = prepare(data_set, data_dir, classes=classes)
  if reason:
    raise UserError(f'data set {data_set} was not prepared ({reason}): fix that, and try again')
  return data_set
