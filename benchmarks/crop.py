"""Images/s of one core for each kind of inception crop, and for decoding alone.

Usage: python benchmarks/crop.py [IMAGES]   (400)

From each JPEG of 500×375 pixels, training images of 224×224 are made by all kinds in turn, with and
without RandAugment. Times are those of the thread, so that other work on the machine counts little.
Prints means and medians per image.
"""

import dataclasses
import statistics
import sys
import time

import numpy as np
from batches import data_config
from photographs import photographs

from mixer_jax.data import augment, decode
from mixer_jax.data.training_image import training_image

SIZE, MAGNITUDE = 224, 15.0


def main(count: int = 400) -> None:
  """Measure and print."""
  config = data_config()
  kinds = {
    f'{crop}{", RandAugment" if layers else ""}': dataclasses.replace(
      config, crop=crop, randaugment_layers=layers, randaugment_magnitude=MAGNITUDE
    )
    for layers in (0, 2)
    for crop in augment.CROPS
  }
  rngs = {name: np.random.default_rng(0) for name in kinds}
  times = {name: [] for name in ('decoding', *kinds)}
  for data in photographs(count):
    start = time.thread_time()
    decode.decode(data)
    times['decoding'].append(time.thread_time() - start)
    for name, kind in kinds.items():
      start = time.thread_time()
      training_image(data, kind, SIZE, rngs[name])
      times[name].append(time.thread_time() - start)
  for name, seconds in times.items():
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    print(f'{name:28} {1e3 * mean:.2f} ms, median {1e3 * median:.2f}; {1 / mean:5.0f} images/s')


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
