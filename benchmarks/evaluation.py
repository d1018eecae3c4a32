"""Images/s of an evaluation beside its two parts alone: the forward pass, and the input.

Usage: python benchmarks/evaluation.py [VARIANT] [IMAGES] [BATCH] [ROUNDS]   (B/16, 128, 16, 7)

JPEGs of 500×375 pixels are written to a temporary folder; weights are random. The three
take turns within each round; medians of the rounds. An evaluation can be no faster than the
slower part. Without an accelerator both parts use the same cores, so that their times add up:
the second share is of what is possible then.
"""

import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.data import pipeline
from mixer_jax.data.catalog import open_source
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes

DATA = pipeline.evaluation_only(
  'folder', recipe='resmall-crop', crop_fraction=0.875, threads=16, prefetch=64
)


def write_photographs(folder: pathlib.Path, count: int) -> None:
  """`count` JPEGs of 500×375 pixels in two class folders."""
  from PIL import Image
  from sklearn.datasets import load_sample_images

  photos = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  for i in range(count):
    path = folder / 'ab'[i % 2] / f'{i}.jpg'
    path.parent.mkdir(exist_ok=True)
    Image.fromarray(np.roll(photos[i % 2], i, 1)).resize((500, 375)).save(path, quality=92)


def measure(
  config: models.MixerConfig, folder: pathlib.Path, batch_size: int, rounds: int
) -> dict[str, float]:
  """Median images/s of `forward`, `input` and `evaluation`."""
  source, mesh = open_source(f'folder:{folder}', ''), meshes.make_mesh()
  step = classify.make_eval_step(config, mesh)
  params = meshes.put_replicated(mesh, models.init(config, jax.random.key(0)))
  count = len(source)

  def batches() -> Iterator[pipeline.Batch]:
    return pipeline.eval_batches(source, DATA, image_size=config.image_size, batch_size=batch_size)

  fixed = meshes.put(mesh, next(batches()))
  jax.block_until_ready(step(params, fixed))  # compiles

  def forward():
    for _ in range(-(-count // batch_size)):
      jax.block_until_ready(step(params, fixed))

  def read():
    for _ in batches():
      pass

  def evaluate():
    classify.evaluate(step, params, batches(), mesh, size=count)

  seconds: dict[str, list[float]] = {'forward': [], 'input': [], 'evaluation': []}
  for _ in range(rounds):
    for name, run in zip(seconds, (forward, read, evaluate), strict=True):
      seconds[name].append(_time(run))
  return {name: count / statistics.median(times) for name, times in seconds.items()}


def _time(run: Callable[[], None]) -> float:
  begun = time.perf_counter()
  run()
  return time.perf_counter() - begun


def told(rates: dict[str, float]) -> str:
  """The three rates, and the shares of what could be."""
  share = rates['evaluation'] / min(rates['forward'], rates['input'])
  shared = rates['evaluation'] * (1 / rates['forward'] + 1 / rates['input'])
  parts = ', '.join(f'{name} {rate:.1f}' for name, rate in rates.items())
  return f'images/s: {parts}; {share:.0%} of the slower part, {shared:.0%} of both on shared cores'


def main(variant='B/16', images='128', batch='16', rounds='7') -> None:
  """Prints one line."""
  with tempfile.TemporaryDirectory() as name:
    write_photographs(pathlib.Path(name), int(images))
    rates = measure(models.VARIANTS[variant], pathlib.Path(name), int(batch), int(rounds))
  print(f'{variant}, batch {batch}, {jax.device_count()} × {jax.devices()[0].device_kind}')
  print(told(rates))


if __name__ == '__main__':
  main(*sys.argv[1:])
