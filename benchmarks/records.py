"""Records per second, read at random from TFRecord through the index and from array_record.

Usage: python benchmarks/records.py [RECORDS] [ROUNDS] [SHARDS]   (8192, 9 rounds, 64)

ImageNet-like records (110 KB of noise as the image, a label, a file name) are prepared in
either format in a temporary folder: about a gigabyte each at 8,192. The formats take turns,
in random order in each round; every round reads the same random sample of 2,048 examples as
training does, decoded except for the image. 'cold': the files were dropped from the page cache
before. Prints medians with their ranges, and how fast the index is built and loaded.
"""

import concurrent.futures
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

FORMATS = ('tfrecord', 'array_record')
SAMPLE = 2048

# A separate process, so that the measured one does not load TensorFlow.
MAKE = """
import io, random, sys
import tensorflow_datasets as tfds
folder, file_format, count, shards = sys.argv[1:]
rng = random.Random(0)
def records():
  for i in range(int(count)):
    image = io.BytesIO(rng.randbytes(rng.randrange(60_000, 160_000)))
    yield i, {'image': image, 'label': i % 1000, 'file_name': f'{i}.JPEG'}
builder = tfds.builder('imagenet2012', data_dir=folder, file_format=file_format)
builder._split_generators = lambda *_: {'train': records()}
config = tfds.download.DownloadConfig(num_shards=int(shards))
builder.download_and_prepare(download_config=config)
"""


def drop(folder: str) -> None:
  """Drop a data set from the page cache, as far as the kernel complies."""
  for path in pathlib.Path(folder).rglob('*record*'):
    with path.open('rb') as file:
      os.fsync(file.fileno())
      os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rate(count: int, action) -> float:
  """Return the rate per second of an action that processes `count` records."""
  begun = time.perf_counter()
  action()
  return count / (time.perf_counter() - begun)


def line(name: str, figures: list[float]) -> str:
  return f'{name:34} {statistics.median(figures):10,.0f} ({min(figures):,.0f}–{max(figures):,.0f})'


def main(records: str = '8192', rounds: str = '9', shards: str = '64') -> None:
  """Measure, and print the table."""
  from mixer_jax.data.catalog import open_source

  with tempfile.TemporaryDirectory() as root:
    os.environ['MIXER_JAX_CACHE'] = f'{root}/cache'
    folders = {name: f'{root}/{name}' for name in FORMATS}
    for name, folder in folders.items():
      command = [sys.executable, '-c', MAKE, folder, name, records, shards]
      subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def opened(name: str):
      return open_source('imagenet2012', 'train', folders[name])

    making: dict[str, list[float]] = {'warm': [], 'cold': []}
    for turn in range(int(rounds) + 1):
      for state, figures in making.items():
        if state == 'cold':
          drop(folders['tfrecord'])
        for path in pathlib.Path(root, 'cache').rglob('*.npz'):
          path.unlink()
        figures += [rate(int(records), lambda: opened('tfrecord'))] if turn else []
    begun = time.perf_counter()
    sources = {name: opened(name) for name in FORMATS}
    loading = time.perf_counter() - begun
    size = len(sources['tfrecord'])
    for i in random.sample(range(size), min(size, 100)):
      assert sources['tfrecord'][i] == sources['array_record'][i]

    reading: dict[tuple[str, int, str], list[float]] = {
      (state, threads, name): []
      for state in ('warm', 'cold')
      for threads in (1, 8)
      for name in FORMATS
    }
    for turn in range(int(rounds) + 1):
      order = random.choices(range(size), k=SAMPLE)
      for state, threads, name in random.sample(list(reading), len(reading)):
        source = sources[name]
        if state == 'cold':
          drop(folders[name])
        else:
          for i in order:
            source[i]
        with concurrent.futures.ThreadPoolExecutor(threads) as pool:
          cut = [order[i::threads] for i in range(threads)]
          read = lambda part, source=source: [len(source[i]['image']) for i in part]
          figure = rate(SAMPLE, lambda cut=cut, pool=pool, read=read: list(pool.map(read, cut)))
        reading[state, threads, name] += [figure] if turn else []

    print(f'{records} records of 110 KB in {shards} files; medians of {rounds} (range), records/s')
    for state, figures in making.items():
      print(line(f'index built, {state} (with opening)', figures))
    print(f'both sources opened, with the index cached: {loading:.2f} s')
    for (state, threads, name), figures in reading.items():
      print(line(f'{name}, {threads} thread{"s" * (threads > 1)}, {state}', figures))
    for state in ('warm', 'cold'):
      for threads in (1, 8):
        ours, theirs = (reading[state, threads, name] for name in FORMATS)
        ratio = statistics.median(ours) / statistics.median(theirs)
        print(f'TFRecord / array_record, {state}, {threads} threads: {ratio:.2f}')


if __name__ == '__main__':
  main(*sys.argv[1:])
