"""Images from files: read alone, and on their way through an evaluation."""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import statistics
import tempfile
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np

from mixer_jax.bench import measure
from mixer_jax.bench.suite import Bench
from mixer_jax.data.batch import Batch
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes

PHOTOGRAPHS = '500 × 375 JPEG photographs'
"""The usual size of ImageNet's images."""
_DIFFERENT = 256
_LEAST_BATCHES = 4


@contextlib.contextmanager
def photographs(count: int) -> Iterator[str]:
  """A folder of `count` JPEG files in two class folders, made of scikit-learn's two photographs."""
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


def reading(bench: Bench, batch_size: int) -> dict[str, Any]:
  """Images/s that the input gives, as training and as evaluation see them."""
  from mixer_jax.data import pipeline

  count = max(_LEAST_BATCHES * batch_size, _DIFFERENT)
  with photographs(count) as folder:
    source, config = _opened(folder)
    how = {'image_size': bench.model.image_size, 'batch_size': batch_size, 'process': _process()}
    steps = count // batch_size

    def train():
      # From the beginning, lest what is ready from the last round be counted in this one.
      for _ in itertools.islice(pipeline.train_batches(source, config, seed=0, **how), steps):
        pass

    def evaluate():
      for _ in pipeline.eval_batches(source, config, **how):
        pass

    seconds = measure.interleaved({'train': train, 'evaluate': evaluate}, bench.rounds)
  return {
    'images': PHOTOGRAPHS,
    'batch_size': batch_size,
    'images_per_second': steps * batch_size / statistics.median(seconds['train']),
    'evaluation_images_per_second': count / statistics.median(seconds['evaluate']),
    'cores': len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count(),
    'rounds': bench.rounds,
  }


def evaluation(bench: Bench, batch_size: int, params: dict, *, photographs: bool) -> dict[str, Any]:
  """A whole evaluation beside its forward pass and its input; without photographs, on noise."""
  count = max(_LEAST_BATCHES * batch_size, _DIFFERENT if photographs else 0)
  with _batches(bench, batch_size, count, photographs) as read:
    step = classify.make_eval_step(bench.model, bench.mesh)
    fixed = meshes.put(bench.mesh, next(read()))
    times = -(-count // batch_size)

    def consume():
      for _ in read():
        pass

    works = {
      'evaluate': lambda: classify.evaluate(step, params, read(), bench.mesh, size=count),
      'forward': measure.repeated(lambda: step(params, fixed), times),
    }
    works |= {'input': consume} if photographs else {}
    seconds = measure.interleaved(works, bench.rounds)
  parts = list(zip(*(seconds[name] for name in works if name != 'evaluate'), strict=True))
  is_shared = photographs and jax.default_backend() == 'cpu'
  rates = {name: count / statistics.median(found) for name, found in seconds.items()}
  return {
    'images': PHOTOGRAPHS if photographs else 'noise in memory',
    'batch_size': batch_size,
    'images_per_second': rates['evaluate'],
    'images_per_second_per_device': rates['evaluate'] / jax.device_count(),
    'forward_images_per_second': rates['forward'],
    'input_images_per_second': rates.get('input'),
    'share_of_slower': measure.ratio([max(part) for part in parts], seconds['evaluate']),
    # Where both take the same cores, no more is to be had than one behind the other.
    'share_of_both': measure.ratio([sum(part) for part in parts], seconds['evaluate'])
    if is_shared
    else None,
    'rounds': bench.rounds,
  }


@contextlib.contextmanager
def _batches(
  bench: Bench, batch_size: int, count: int, from_files: bool
) -> Iterator[Callable[[], Iterator[Batch]]]:
  """What begins to read the images from the first."""
  size = bench.model.image_size
  if from_files:
    from mixer_jax.data import pipeline

    with photographs(count) as folder:
      source, config = _opened(folder)
      how = {'image_size': size, 'batch_size': batch_size, 'process': _process()}
      yield lambda: pipeline.eval_batches(source, config, **how)
    return
  local = batch_size // jax.process_count()
  draw = np.random.default_rng(0)
  batch = {
    'image': draw.integers(0, 256, (local, size, size, 3), np.uint8),
    'label': draw.integers(0, bench.model.num_classes, local, np.int32),
    'mask': np.ones(local, bool),
    'index': np.arange(local, dtype=np.int32),
  }
  yield lambda: iter([batch] * -(-count // batch_size))


def _process() -> Any:
  from mixer_jax.data.pipeline import Process

  return Process(jax.process_index(), jax.process_count())


def _opened(folder: str) -> tuple[Any, Any]:
  """(source, config) of a folder of photographs: the recipe of the paper."""
  from mixer_jax.data.catalog import open_source
  from mixer_jax.data.pipeline import evaluation_only

  config = evaluation_only(
    f'folder:{folder}', recipe='resmall-crop', crop_fraction=0.875, threads=16, prefetch=64
  )
  crop = {'min_crop_area': 0.05, 'min_crop_aspect': 0.75, 'max_crop_aspect': 4 / 3}
  config = dataclasses.replace(config, flip=True, **crop)
  return open_source(config.name, '', ''), config
