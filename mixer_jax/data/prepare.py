"""A data set of TFDS, or of this package, written to disk as array_record. Needs TensorFlow.

`python -m mixer_jax.data.prepare NAME [DATA_DIR [CLASSES]]` is a process of its own, so that
whoever asks for it does not hold TensorFlow. Progress goes to stderr; the last line of stdout
is what went wrong.

TFDS writes to a folder beside the data set's and renames it at the end: when something goes
wrong, also when the disk is full, what was there before is as it was.
"""

import os
import subprocess
import sys
from typing import Any

OWN = ('digits', 'imagenet21k')
"""The data sets that TFDS does not have and this package does."""

_QUIET = {'TF_CPP_MIN_LOG_LEVEL': '3', 'TF_ENABLE_ONEDNN_OPTS': '0', 'CUDA_VISIBLE_DEVICES': ''}


def prepare(
  name: str, data_dir: str = '', *, classes: int | None = None, quiet: bool = False
) -> str | None:
  """Prepares it in another process; the reason, where that does not succeed.

  Args:
    name: of TFDS, or in `OWN`.
    data_dir: where to; '' is TFDS's own default.
    classes: how many there must be in the archive of `imagenet21k`; None: as in the paper.
    quiet: the progress bars of TFDS are not shown.
  """
  flags = [data_dir] if classes is None else [data_dir, str(classes)]
  done = subprocess.run(
    [sys.executable, '-m', 'mixer_jax.data.prepare', name, *flags],
    env={**_QUIET, **os.environ},
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL if quiet else None,
    text=True,
    check=False,
  )
  if done.returncode == 0:
    return None
  lines = done.stdout.strip().splitlines()
  return lines[-1] if lines else f'it ended with code {done.returncode}'


def own_builder(name: str, **kwargs: Any):
  """The TFDS builder of a data set in `OWN`."""
  if name == 'digits':
    from mixer_jax.data.digits import Digits

    return Digits(**kwargs)
  from mixer_jax.data.imagenet21k import Imagenet21k

  return Imagenet21k(**kwargs)


def main(name: str, data_dir: str = '', classes: str = '') -> None:
  """In the process that has TensorFlow."""
  import tensorflow_datasets as tfds

  place = {'data_dir': data_dir or None, 'file_format': 'array_record'}
  try:
    if name in OWN:
      builder = own_builder(name, **place, **({'num_classes': int(classes)} if classes else {}))
    else:
      builder = tfds.builder(name, **place, try_gcs=False)
    builder.download_and_prepare()
  except Exception as error:  # whatever TFDS, TensorFlow and the network raise
    print(' '.join(str(error).split())[:600] or type(error).__name__)
    sys.exit(1)


if __name__ == '__main__':
  main(*sys.argv[1:])
