"""Images/s of an evaluation compared with its two parts alone: the forward pass, and the input.

Usage: python benchmarks/evaluation.py [VARIANT] [IMAGES] [BATCH] [ROUNDS]   (B/16, 128, 16, 7)

JPEGs of 500×375 pixels are written to a temporary folder; weights are random. The three take
turns within each round, after a round that is not counted; medians of the rounds. An evaluation
can be no faster than the slower part. Without an accelerator both parts use the same cores, so
that their times add up: the second share is relative to that sum. `mixer-jax bench --what=evaluate`
measures the same at the fastest batch size.
"""

import statistics
import sys
from collections.abc import Iterator

import jax

from mixer_jax import models
from mixer_jax.bench import data_input, measure
from mixer_jax.data import pipeline
from mixer_jax.data.batch import Batch
from mixer_jax.data.catalog import open_source
from mixer_jax.data.data_config import evaluation_only
from mixer_jax.evaluation import classify
from mixer_jax.parallel import mesh as meshes

DATA = evaluation_only(
  'folder', recipe='resmall-crop', crop_fraction=0.875, threads=16, prefetch=64
)


def rates(
  config: models.MixerConfig, folder: str, batch_size: int, rounds: int
) -> dict[str, float]:
  """Return median images/s of `forward`, `input` and `evaluation`."""
  source, mesh = open_source(f'folder:{folder}', ''), meshes.make_mesh()
  step = classify.make_eval_step(config, mesh, loss='softmax')
  params = meshes.put_replicated(mesh, models.init(config, jax.random.key(0)))
  count = len(source)

  def batches() -> Iterator[Batch]:
    return pipeline.eval_batches(source, DATA, image_size=config.image_size, batch_size=batch_size)

  fixed = meshes.put(mesh, next(batches()))

  def read():
    for _ in batches():
      pass

  works = {
    'forward': measure.repeated(lambda: step(params, fixed), -(-count // batch_size)),
    'input': read,
    'evaluation': lambda: classify.evaluate(step, params, batches(), mesh, size=count),
  }
  seconds = measure.interleaved(works, rounds)
  return {name: count / statistics.median(times) for name, times in seconds.items()}


def main(variant='B/16', images='128', batch='16', rounds='7') -> None:
  """Print the three rates, and the shares of what the parts allow."""
  with data_input.photographs(int(images)) as folder:
    found = rates(models.VARIANTS[variant], folder, int(batch), int(rounds))
  share = found['evaluation'] / min(found['forward'], found['input'])
  shared = found['evaluation'] * (1 / found['forward'] + 1 / found['input'])
  parts = ', '.join(f'{name} {rate:.1f}' for name, rate in found.items())
  print(f'{variant}, batch {batch}, {jax.device_count()} × {jax.devices()[0].device_kind}')
  print(f'images/s: {parts}; {share:.0%} of the slower part, {shared:.0%} of both on shared cores')


if __name__ == '__main__':
  main(*sys.argv[1:])
