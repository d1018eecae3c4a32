"""Training batches of the package, as `mixer-jax train` makes them, and of the package before."""

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any

import numpy as np

PREFETCH = 512
BATCH = 32


def training_batches(
  config: str = 'common',
  *,
  image_size: int = 224,
  batch_size: int = BATCH,
  first_step: int = 0,
  played_seconds: float = 0,
  **data: Any,
) -> Iterator[np.ndarray]:
  """Yield the images of the batches of a config.

  Args:
    played_seconds: see `PlayedRecords`; 0: images are decoded.
    data: fields of the config group `data`.
  """
  from mixer_jax.data import pipeline
  from mixer_jax.data.catalog import open_source

  settings = data_config(config, **data)
  source = open_source(settings.name, settings.train_split, settings.data_dir)
  if played_seconds:
    from played import PlayedRecords  # by the name that worker processes find it by

    records = PlayedRecords(source.records, image_size, played_seconds)
    source = dataclasses.replace(source, records=records)
  batches = pipeline.train_batches(
    source, settings, image_size=image_size, batch_size=batch_size, seed=0, first_step=first_step
  )
  return (batch['image'] for batch in batches)


def data_config(config: str = 'common', **data: Any):
  """Return the `DataConfig` of a config with these fields."""
  from mixer_jax.data.data_config import DataConfig

  return DataConfig(**{**importlib.import_module(f'configs.{config}').get_config().data, **data})


def photographs_of(folder: str, **data: Any) -> dict[str, Any]:
  """Return the fields for the data set of `photographs.prepare`."""
  return {'name': 'imagenet2012', 'train_split': 'train', 'data_dir': folder, **data}
