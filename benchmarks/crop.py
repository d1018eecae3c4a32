"""Time of a training image: decoding, and what follows for each kind of inception crop.

Usage: python benchmarks/crop.py [IMAGES] [LARGE]   (400, 24)

JPEGs of 500×375 pixels become training images of 224×224, by all kinds in turn, with and without
RandAugment. Then LARGE JPEGs of 4000×3000 pixels with the noise of a camera, with
`data.decode_scale` none and auto. Times are those of the thread, so that other work on the machine
counts little. Prints means and medians per image, and medians of the ratios to the first row.
"""

import dataclasses
import io
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from PIL import Image

from benchmarks.photographs import photographs
from configs import common
from mixer_jax.data import augment, decode
from mixer_jax.data.data_config import DataConfig
from mixer_jax.data.training_image import training_image

SIZE, MAGNITUDE = 224, 15
_NOISE = 4.0  # standard deviation, levels: files of about 4 MB


def large_photographs(count: int) -> Iterator[bytes]:
  """Yield different JPEGs of 4000×3000 pixels."""
  from sklearn.datasets import load_sample_images

  photos = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  rng = np.random.default_rng(0)
  for number in range(count):
    image = np.asarray(
      Image.fromarray(photos[number % 2]).resize((4000, 3000), Image.Resampling.BICUBIC)
    )
    levels = image + rng.normal(0, _NOISE, image.shape).astype(np.float32)
    buffer = io.BytesIO()
    Image.fromarray(levels.clip(0, 255).astype(np.uint8)).save(buffer, 'JPEG', quality=90)
    yield buffer.getvalue()


def measure(images: Iterable[bytes], kinds: Mapping[str, Callable[[bytes], object]]) -> None:
  """Apply all kinds to each image, and print a row per kind."""
  times: dict[str, list[float]] = {name: [] for name in kinds}
  sizes = []
  for data in images:
    sizes.append(len(data) / 1000)
    for name, function in kinds.items():
      start = time.thread_time()
      function(data)
      times[name].append(time.thread_time() - start)
  print(f'{len(sizes)} JPEGs of {statistics.mean(sizes):.0f} KB')
  first = next(iter(times.values()))
  for name, seconds in times.items():
    ratio = statistics.median(a / b for a, b in zip(first, seconds, strict=True))
    mean, median = statistics.mean(seconds), statistics.median(seconds)
    print(
      f'{name:28} {1e3 * mean:.3f} ms, median {1e3 * median:.3f}; {1 / mean:.0f} images/s; '
      f'speed compared with the first row {ratio:.2f}'
    )


def main(count: int = 400, large: int = 24) -> None:
  """Measure and print."""
  config = DataConfig(**common.get_config().data)

  def made(**fields) -> Callable[[bytes], np.ndarray]:
    kind = dataclasses.replace(config, randaugment_magnitude=float(MAGNITUDE), **fields)
    rng = np.random.default_rng(0)
    return lambda data: training_image(data, kind, SIZE, rng)

  kinds: dict[str, Callable[[bytes], object]] = {'decoding alone': decode.decode}
  for layers in (0, 2):
    for crop in augment.CROPS:
      name = f'{crop}{", RandAugment" if layers else ""}'
      kinds[name] = made(crop=crop, randaugment_layers=layers)
  measure(photographs(count), kinds)
  scales = {f'decode_scale={scale}': made(decode_scale=scale) for scale in augment.DECODE_SCALES}
  measure(large_photographs(large), scales)


if __name__ == '__main__':
  main(*map(int, sys.argv[1:]))
