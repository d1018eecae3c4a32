"""Speed of reading images from files: alone, and as part of an evaluation."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from mixer_jax import hardware
from mixer_jax.bench import measure
from mixer_jax.bench.settings import BenchSettings
from mixer_jax.data.batch import Batch
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes

if TYPE_CHECKING:
  from mixer_jax.data.data_config import DataConfig

PHOTOGRAPHS = '500 × 375 JPEG photographs'
"""Images of the usual size of ImageNet's."""
_DIFFERENT = 256
_LEAST_BATCHES = 4
_BATCH = 256
"""Images per process in a batch of `input`, whose size hardly matters there."""
_RECIPE = ('crop', 'crop_resize', 'min_crop_area', 'decode_scale', 'randaugment_layers')
"""Fields of the data that decide how long an image takes."""


@contextlib.contextmanager
def photographs(count: int) -> Iterator[str]:
  """Provide a folder of `count` JPEG files in two classes, made from two sample photographs."""
  from PIL import Image
  from sklearn.datasets import load_sample_images

  photos = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  with tempfile.TemporaryDirectory(prefix='mixer_jax_bench_') as name:
    for i in range(count):
      path = pathlib.Path(name) / 'ab'[i % 2] / f'{i}.jpg'
      path.parent.mkdir(exist_ok=True)
      if i < _DIFFERENT:
        Image.fromarray(np.roll(photos[i % 2], i, 1)).resize((500, 375)).save(path, quality=92)
      else:
        os.link(path.with_name(f'{i % _DIFFERENT}.jpg'), path)
    yield name


def reading(settings: BenchSettings, mesh: Mesh) -> dict[str, Any]:
  """Measure the images/s of the input pipeline, for training and for evaluation.

  Images and recipe are those of the experiment, or photographs with the recipe of the paper.
  """
  if settings.experiment:
    from mixer_jax.runs.evaluation_setup import data_of

    data = data_of(settings.experiment)
    row = _reading(settings, mesh, data)
    return {**row, 'images': data.name, 'recipe': {'name': data.name, **row['recipe']}}
  with photographs(_DIFFERENT) as folder:
    data = dataclasses.replace(_config(folder), workers='auto', threads='auto', prefetch=512)
    return {**_reading(settings, mesh, data), 'images': PHOTOGRAPHS}


def _reading(settings: BenchSettings, mesh: Mesh, data: 'DataConfig') -> dict[str, Any]:
  from mixer_jax.bench import input_rates
  from mixer_jax.data.parallelism import chosen, cores
  from mixer_jax.runs.data_splits import open_evaluated, open_train
  from mixer_jax.runs.evaluation_setup import EvaluationSetup, this_process

  size, process, evaluated = settings.model.image_size, this_process(mesh), open_evaluated(data)
  batch_size = settings.batch_size or _BATCH * process.count
  training = input_rates.TrainingInput(open_train(data), data, size, batch_size, process)
  rows = input_rates.scaling(training, settings.rounds)
  own = input_rates.as_configured(training, rows, settings.rounds)
  setup = EvaluationSetup(data, mesh, batch_size, evaluated)
  epochs = itertools.chain.from_iterable(setup.batches(size) for _ in itertools.count())
  ahead = chosen(data, evaluated, size, len(evaluated)).ahead(data.prefetch)
  rates, _ = input_rates.timed(epochs, ahead, settings.rounds)
  return {
    'batch_size': batch_size,
    'images_per_second': process.count * own['images_per_second'],
    'evaluation_images_per_second': process.count * statistics.median(rates),
    'cores': cores(),
    'rounds': settings.rounds,
    'workers': own['workers'],
    'threads': own['threads'],
    'cpu': hardware.cpu_name(),
    'threads_per_core': hardware.threads_per_core(),
    'recipe': {
      'image_size': size,
      **{name: getattr(data, name) for name in _RECIPE},
    },
    'scaling': rows,
    **input_rates.extrapolated(rows[-1]),
  }


def evaluation(
  settings: BenchSettings, mesh: Mesh, batch_size: int, params: dict, *, from_files: bool
) -> dict[str, Any]:
  """Measure an evaluation compared with its forward pass and its input.

  Args:
    from_files: evaluate photographs from files; False: noise in memory.
  """
  count = max(_LEAST_BATCHES * batch_size, _DIFFERENT if from_files else 0)
  with _batches(settings, mesh, batch_size, count, from_files) as read:
    step = classify.make_eval_step(settings.model, mesh, loss='softmax')
    fixed = meshes.put(mesh, next(read()))
    times = -(-count // batch_size)

    def consume():
      for _ in read():
        pass

    works = {
      'evaluate': lambda: classify.evaluate(step, params, read(), mesh, size=count),
      'forward': measure.repeated(lambda: step(params, fixed), times),
    }
    works |= {'input': consume} if from_files else {}
    seconds = measure.interleaved(works, settings.rounds)
  parts = list(zip(*(seconds[name] for name in works if name != 'evaluate'), strict=True))
  is_shared = from_files and jax.default_backend() == 'cpu'
  rates = {name: count / statistics.median(found) for name, found in seconds.items()}
  return {
    'images': PHOTOGRAPHS if from_files else 'noise in memory',
    'batch_size': batch_size,
    'images_per_second': rates['evaluate'],
    'images_per_second_per_device': rates['evaluate'] / mesh.size,
    'forward_images_per_second': rates['forward'],
    'input_images_per_second': rates.get('input'),
    'share_of_slower': measure.ratio([max(part) for part in parts], seconds['evaluate']),
    # Where both run on the same cores, they cannot be faster than one after the other.
    'share_of_both': measure.ratio([sum(part) for part in parts], seconds['evaluate'])
    if is_shared
    else None,
    'rounds': settings.rounds,
  }


@contextlib.contextmanager
def _batches(
  settings: BenchSettings, mesh: Mesh, batch_size: int, count: int, from_files: bool
) -> Iterator[Callable[[], Iterator[Batch]]]:
  """Provide a function that returns an iterator over the batches of an epoch."""
  size = settings.model.image_size
  if from_files:
    from mixer_jax.runs.evaluation_setup import EvaluationSetup

    with photographs(count) as folder:
      source, config = _open(folder)
      setup = EvaluationSetup(config, mesh, batch_size, source)
      yield lambda: setup.batches(size)
    return
  local = batch_size // meshes.own_part(mesh)[1]
  draw = np.random.default_rng(0)
  batch = {
    'image': draw.integers(0, 256, (local, size, size, 3), np.uint8),
    'label': draw.integers(0, settings.model.num_classes, local, np.int32),
    'mask': np.ones(local, bool),
    'index': np.arange(local, dtype=np.int32),
  }
  yield lambda: iter([batch] * -(-count // batch_size))


def _open(folder: str) -> tuple[Any, Any]:
  """Return (source, config) of a folder of photographs, with the recipe of the paper."""
  from mixer_jax.data.catalog import open_source

  config = _config(folder)
  return open_source(config.name, '', ''), config


def _config(folder: str) -> 'DataConfig':
  from mixer_jax.data.data_config import evaluation_only

  config = evaluation_only(
    f'folder:{folder}', recipe='resmall-crop', crop_fraction=0.875, threads=4, prefetch=64
  )
  crop = {'min_crop_area': 0.05, 'min_crop_aspect': 0.75, 'max_crop_aspect': 1.33}
  return dataclasses.replace(config, flip=True, **crop)
