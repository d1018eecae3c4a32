"""Images/s of one core for each kind of inception crop, and for the decoding before it.

Usage: python benchmarks/crop.py [IMAGES]   (400)

JPEGs of 500×375 pixels are decoded; each is then cropped, resized to 224×224 and flipped by all
kinds in turn, with and without RandAugment. Times are those of the thread, so that other work on
the machine counts little. Prints means and medians per image.
"""

import dataclasses
import statistics
import sys
import time

import numpy as np

from benchmarks.input import MAGNITUDE, SIZE, photographs
from configs import common
from mixer_jax.data import augment, decode, pipeline
from mixer_jax.data.data_config import DataConfig


def main(count: int = 400) -> None:
  """Measure and print."""
  config = DataConfig(**common.get_config().data)
  kinds = {
    f'{crop}{", RandAugment" if layers else ""}': dataclasses.replace(
      config, crop=crop, randaugment_layers=layers, randaugment_magnitude=float(MAGNITUDE)
    )
    for layers in (0, 2)
    for crop in augment.CROPS
  }
  rngs = {name: np.random.default_rng(0) for name in kinds}
  times = {name: [] for name in ('decoding', *kinds)}
  for data in photographs(count):
    start = time.thread_time()
    image = decode.decode(data)
    times['decoding'].append(time.thread_time() - start)
    for name, kind in kinds.items():
      start = time.thread_time()
      pipeline.augmented(image, kind, SIZE, rngs[name])
      times[name].append(time.thread_time() - start)
  decoding = statistics.mean(times['decoding'])
  for name, seconds in times.items():
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    rate = 1 / (mean if name == 'decoding' else decoding + mean)
    print(f'{name:28} {1e3 * mean:.2f} ms, median {1e3 * median:.2f}; {rate:5.0f} images/s decoded')


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
