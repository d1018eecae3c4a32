"""Photographs as a prepared data set.

Usage: python benchmarks/photographs.py FOLDER COUNT [WIDTH HEIGHT]   (500 375: some 65 KB each)

Prepares COUNT JPEGs as `imagenet2012` in FOLDER, as TFRecord files.
"""

import io
import pathlib
import subprocess
import sys
from collections.abc import Iterator

import numpy as np


def photographs(count: int, width: int = 500, height: int = 375) -> Iterator[bytes]:
  """Yield different JPEGs."""
  from PIL import Image
  from sklearn.datasets import load_sample_images

  photos = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  for i in range(count):
    buffer = io.BytesIO()
    rolled = np.roll(photos[i % 2], (i // 100, i), (0, 1))
    Image.fromarray(rolled).resize((width, height)).save(buffer, 'JPEG', quality=94)
    yield buffer.getvalue()


def prepare(folder: str | pathlib.Path, count: int, width: int = 500, height: int = 375) -> None:
  """Prepare the data set in another process, so that this one does not load TensorFlow."""
  command = [sys.executable, __file__, folder, count, width, height]
  subprocess.run([str(part) for part in command], check=True, stderr=subprocess.DEVNULL)


def main(folder: str, count: str, width: str = '500', height: str = '375') -> None:
  """Prepare the data set."""
  import tensorflow_datasets as tfds

  records = (
    (i, {'image': io.BytesIO(image), 'label': i % 1000, 'file_name': f'{i}.JPEG'})
    for i, image in enumerate(photographs(int(count), int(width), int(height)))
  )
  builder = tfds.builder('imagenet2012', data_dir=folder, file_format='tfrecord')
  builder._split_generators = lambda *_: {'train': records}
  builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=8))


if __name__ == '__main__':
  main(*sys.argv[1:])
