"""TFDS data sets of synthetic records, with the names and features of real builders."""

import pathlib

import numpy as np
import tensorflow_datasets as tfds


def prepare(
  name: str,
  split: str,
  records: list[dict],
  folder: pathlib.Path,
  *,
  file_format: str = 'array_record',
) -> None:
  """Prepare the data set `name` in `folder`, with `records` as its `split`."""
  prepare_splits(name, {split: records}, folder, file_format=file_format)


def prepare_splits(
  name: str,
  records: dict[str, list[dict]],
  folder: pathlib.Path,
  *,
  file_format: str,
  shards: int | None = None,
) -> None:
  """Prepare the data set `name` in `folder`, each split in `shards` files.

  The order, and what comes into which file, depend on the records' places in the lists alone.
  """
  builder = tfds.builder(name, data_dir=folder, file_format=file_format)
  builder._split_generators = lambda *_: {
    split: iter(list(enumerate(these))) for split, these in records.items()
  }
  config = tfds.download.DownloadConfig(num_shards=shards)
  builder.download_and_prepare(download_config=config)


def kitti_record(index: int) -> dict:
  """Return a record of KITTI: a third are empty, a third have a person, a third a van at 0–39 m."""

  def thing(depth, kind):
    return {
      'alpha': 0.0,
      'bbox': tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
      'dimensions': [1.0, 1.0, 1.0],
      'location': [1.0, 2.0, depth],
      'occluded': 0,
      'rotation_y': 0.0,
      'truncated': 0.0,
      'type': kind,
    }

  # empty, a person, or a van and a car, the closer one at 0 to 39 m
  things = [[], [thing(5.0, 3)], [thing(float(index % 40), 1), thing(60.0, 0)]][index % 3]
  image = np.full((6, 20, 3), index % 256, np.uint8)
  return {'image': image, 'image/file_name': f'{index:06d}.png', 'objects': things}
