"""Prepare a data set of TFDS or of this package on disk as array_record. Needs TensorFlow.

`python -m mixer_jax.data.prepare NAME [DATA_DIR [CLASSES]]` runs in a process of its own, so that
the caller does not load TensorFlow. Progress goes to stderr; after an error, the last line of
stdout is its message.

TFDS writes to a temporary folder and renames it at the end, so an error (such as a full disk)
leaves an earlier data set unchanged.
"""

import importlib.util
import os
import subprocess
import sys
from typing import Any

from mixer_jax.errors import StorageError, one_line
from mixer_jax.storage import writing

OWN = ('digits', 'imagenet21k')
"""Data sets that this package adds to those of TFDS."""

_STORAGE_FAILED = 74  # exit code

_QUIET = {'TF_CPP_MIN_LOG_LEVEL': '3', 'TF_ENABLE_ONEDNN_OPTS': '0', 'CUDA_VISIBLE_DEVICES': ''}


def prepare(
  name: str, data_dir: str = '', *, classes: int | None = None, quiet: bool = False
) -> str | None:
  """Prepare a data set in another process; return None, or the reason why it is not prepared.

  Args:
    name: TFDS name, or one of `OWN`.
    data_dir: target folder; '' is TFDS's default.
    classes: number of classes that the archive of `imagenet21k` must have; None: the paper's.
    quiet: hide the progress bars of TFDS.

  Raises:
    StorageError: the disk or the network failed, for example because the disk is full.
  """
  if importlib.util.find_spec('tensorflow') is None:
    return "preparing it needs TensorFlow: pip install 'mixer_jax[prepare]'"
  flags = [data_dir] if classes is None else [data_dir, str(classes)]
  done = subprocess.run(
    [sys.executable, '-m', 'mixer_jax.data.prepare', name, *flags],
    env={**_QUIET, **os.environ, 'PYTHONIOENCODING': 'utf-8:backslashreplace'},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL if quiet else None,
    encoding='utf-8',
    errors='replace',
    check=False,
  )
  if done.returncode == 0:
    return None
  lines = done.stdout.strip().splitlines()
  reason = lines[-1] if lines else f'it exited with code {done.returncode}'
  if done.returncode == _STORAGE_FAILED:
    raise StorageError(f'data set {name} was not prepared: {reason}')
  return reason


def own_builder(name: str, **kwargs: Any):
  """Return the TFDS builder of a data set in `OWN`."""
  if name == 'digits':
    from mixer_jax.data.digits import Digits

    return Digits(**kwargs)
  from mixer_jax.data.imagenet21k import Imagenet21k

  return Imagenet21k(**kwargs)


def main(name: str, data_dir: str = '', classes: str = '') -> None:
  """Prepare a data set in this process, which has TensorFlow."""
  import tensorflow_datasets as tfds

  place = {'data_dir': data_dir or None, 'file_format': 'array_record'}
  try:
    if name in OWN:
      builder = own_builder(name, **place, **({'num_classes': int(classes)} if classes else {}))
    else:
      builder = tfds.builder(name, **place, try_gcs=False)
    with writing(name):
      builder.download_and_prepare()
  except StorageError as error:
    print(one_line(error, 600))
    sys.exit(_STORAGE_FAILED)
  except Exception as error:  # TFDS, TensorFlow and the network raise many kinds
    print(one_line(error, 600))
    sys.exit(1)


if __name__ == '__main__':
  main(*sys.argv[1:])
