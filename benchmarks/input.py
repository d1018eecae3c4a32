"""Images/s of the training input, compared with OpenCV and tf.data; its memory; its restart.

Usage: python benchmarks/input.py [IMAGES] [WORKERS] [ROUNDS] [JSON]   (2000, 2, 7, no file)

JPEGs of 500×375 pixels and about 65 KB are prepared as `imagenet2012` in a temporary folder, as
array_record for this package and as TFRecord for tf.data. All read, decode, cut out a random part
(inception crop) and resize it to 224×224, mirror half of the images and make batches of 32; bare
OpenCV has the encoded images in memory already, knows its crops, mirrors nothing and makes no
batches. tf.data runs twice: decoding the complete JPEG as here, and decoding only the crop. With
RandAugment both run the authors' operations, TensorFlow those of tests/data/test_randaugment.py.

Each is a separate process with WORKERS threads. They take turns, in random order in each round; in
its turn each produces all images once, after those that it had prefetched. Prints medians of the
rounds with their ranges, and the medians of the ratios within a round.

Then: resident memory while 50,000 records are read, and new processes that start at different
steps: seconds to the first batch, and whether the batches equal those of an uninterrupted run.
"""

import collections
import concurrent.futures
import dataclasses
import hashlib
import io
import itertools
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

BATCH, SIZE, MAGNITUDE = 32, 224, 15
READY = 512  # images that each prefetches, as training does
UNCOUNTED = READY // BATCH + 4  # batches
RECORDS = 50_000  # read for the memory
STEPS = (0, 7, 1000, 93_750)  # to start at; the last is the end of 300 epochs of 10,000 images

OURS, OPENCV, TF_DATA, TF_DATA_PART = 'mixer_jax', 'OpenCV', 'tf.data', 'tf.data, part decoded'
AUGMENTED, TF_AUGMENTED = 'mixer_jax, RandAugment', 'tf.data, RandAugment'
KINDS = (OURS, OPENCV, TF_DATA, TF_DATA_PART, AUGMENTED, TF_AUGMENTED)
RATIOS = (
  *((OURS, OPENCV, 0.9), (OURS, TF_DATA, 1.0), (OURS, TF_DATA_PART, None)),
  (AUGMENTED, TF_AUGMENTED, 0.9),
)
"""(numerator, denominator, goal)."""


def photographs(count: int) -> Iterator[bytes]:
  """Yield different JPEGs of 500×375 pixels."""
  from PIL import Image
  from sklearn.datasets import load_sample_images

  photos = load_sample_images().images  # pyright: ignore[reportAttributeAccessIssue]
  for i in range(count):
    buffer = io.BytesIO()
    rolled = np.roll(photos[i % 2], (i // 100, i), (0, 1))
    Image.fromarray(rolled).resize((500, 375)).save(buffer, 'JPEG', quality=94)
    yield buffer.getvalue()


def prepare(folder: str, count: int) -> None:
  """Prepare the data set in both formats."""
  import tensorflow_datasets as tfds

  for file_format in ('array_record', 'tfrecord'):
    records = (
      (i, {'image': io.BytesIO(image), 'label': i % 1000, 'file_name': f'{i}.JPEG'})
      for i, image in enumerate(photographs(count))
    )
    place = f'{folder}/{file_format}'
    builder = tfds.builder('imagenet2012', data_dir=place, file_format=file_format)
    builder._split_generators = lambda *_, records=records: {'train': records}
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=8))


def ours(folder: str, workers: int, *, layers: int = 0, step: int = 0) -> Iterator[np.ndarray]:
  """Yield batches as `mixer-jax train` reads them."""
  from configs import common
  from mixer_jax.data import pipeline
  from mixer_jax.data.catalog import open_source
  from mixer_jax.data.data_config import DataConfig

  config = DataConfig(**common.get_config().data)
  config = dataclasses.replace(
    config,
    threads=workers,
    prefetch=READY,
    randaugment_layers=layers,
    randaugment_magnitude=float(MAGNITUDE),
  )
  batches = pipeline.train_batches(
    open_source('imagenet2012', 'train', f'{folder}/array_record'),
    config,
    image_size=SIZE,
    batch_size=BATCH,
    seed=0,
    first_step=step,
  )
  return (batch['image'] for batch in batches)


def opencv(folder: str, workers: int) -> Iterator[list[np.ndarray]]:
  """Yield lists of images, read with OpenCV alone."""
  import cv2

  from mixer_jax.data.catalog import open_source

  cv2.setNumThreads(0)
  source = open_source('imagenet2012', 'train', f'{folder}/array_record')
  encoded = [np.frombuffer(source[i]['image'], np.uint8) for i in range(len(source))]
  rng = np.random.default_rng(0)

  def drawn() -> tuple[int, int, int, int]:
    while True:
      area, ratio = rng.uniform(0.05, 1) * 500 * 375, rng.uniform(0.75, 4 / 3)
      height, width = round((area / ratio) ** 0.5), round((area * ratio) ** 0.5)
      if height <= 375 and width <= 500:
        return rng.integers(376 - height), rng.integers(501 - width), height, width

  crops = [drawn() for _ in encoded]

  def made(index: int) -> np.ndarray:
    top, left, height, width = crops[index]
    image = cv2.imdecode(encoded[index], cv2.IMREAD_COLOR)
    assert image is not None
    return cv2.resize(image[top : top + height, left : left + width], (SIZE, SIZE))

  places = itertools.cycle(range(len(encoded)))
  with concurrent.futures.ThreadPoolExecutor(workers) as pool:
    ready = collections.deque(pool.submit(made, next(places)) for _ in range(READY))
    while True:
      images = []
      for _ in range(BATCH):
        images.append(ready.popleft().result())
        ready.append(pool.submit(made, next(places)))
      yield images


def tf_data(folder: str, workers: int, *, layers: int = 0, part: bool = False):
  """Return an iterator over batches of tf.data."""
  import tensorflow as tf
  import tensorflow_datasets as tfds

  def cropped(data):
    shape = tf.io.extract_jpeg_shape(data)
    begin, size, _ = tf.image.sample_distorted_bounding_box(
      shape,
      tf.zeros((0, 0, 4), tf.float32),
      area_range=(0.05, 1),
      min_object_covered=0,
      use_image_if_no_bounding_boxes=True,
    )
    if part:
      window = tf.concat([begin[:2], size[:2]], 0)
      image = tf.io.decode_and_crop_jpeg(data, window, channels=3)
    else:
      image = tf.slice(tf.io.decode_jpeg(data, channels=3), begin, (size[0], size[1], 3))
    return tf.cast(tf.image.resize(image, (SIZE, SIZE)), tf.uint8)

  def made(example):
    image = tf.image.random_flip_left_right(cropped(example['image']))
    for _ in range(layers):
      image = _tf_operation(image)
    return image

  options = tf.data.Options()
  options.threading.private_threadpool_size = workers
  options.threading.max_intra_op_parallelism = 1
  builder = tfds.builder('imagenet2012', data_dir=f'{folder}/tfrecord')
  dataset = builder.as_dataset(split='train', decoders={'image': tfds.decode.SkipDecoding()})
  dataset = dataset.repeat().map(made, num_parallel_calls=workers).batch(BATCH)
  return dataset.prefetch(READY // BATCH).with_options(options).as_numpy_iterator()


def _tf_operation(image):
  """Apply one random operation of the 16 of RandAugment, in TensorFlow."""
  import tensorflow as tf

  from tests.data.test_randaugment import SIGNED, TENSORFLOW

  def cut_out(image):
    half = int(MAGNITUDE / 10 * 40)
    y, x = (tf.random.uniform((), 0, SIZE, tf.int32) for _ in range(2))
    rows, columns = tf.range(SIZE)[:, None], tf.range(SIZE)[None]
    inside = (rows >= y - half) & (rows < y + half) & (columns >= x - half) & (columns < x + half)
    return tf.where(inside[..., None], tf.constant(128, tf.uint8), image)

  def branch(name: str):
    change = TENSORFLOW[name]
    if name not in SIGNED:
      return lambda: change(image, MAGNITUDE)
    forwards, backwards = (lambda: change(image, MAGNITUDE)), (lambda: change(image, -MAGNITUDE))
    return lambda: tf.cond(tf.random.uniform(()) < 0.5, forwards, backwards)

  branches = [*(branch(name) for name in TENSORFLOW), lambda: cut_out(image)]
  drawn = tf.random.uniform((), 0, len(branches), tf.int32)
  return tf.ensure_shape(tf.switch_case(drawn, branches), (SIZE, SIZE, 3))


def serve(kind: str, folder: str, workers: int, count: int) -> None:
  """For each line of input, produce `count` images and print the images/s."""
  batches = {
    OURS: lambda: ours(folder, workers),
    OPENCV: lambda: opencv(folder, workers),
    TF_DATA: lambda: tf_data(folder, workers),
    TF_DATA_PART: lambda: tf_data(folder, workers, part=True),
    AUGMENTED: lambda: ours(folder, workers, layers=2),
    TF_AUGMENTED: lambda: tf_data(folder, workers, layers=2),
  }[kind]()
  for _ in sys.stdin:
    for _ in range(UNCOUNTED):
      next(batches)
    begun = time.perf_counter()
    for _ in range(count // BATCH):
      next(batches)
    print(count // BATCH * BATCH / (time.perf_counter() - begun), flush=True)


def remember(folder: str, workers: int) -> None:
  """Print the resident MiB, ten times while `RECORDS` records are read."""
  pages, found = os.sysconf('SC_PAGE_SIZE') / 2**20, []
  for number, _ in enumerate(ours(folder, workers, layers=2)):
    if number % (RECORDS // BATCH // 10) == 0 and number:
      resident = pathlib.Path('/proc/self/statm').read_text().split()[1]
      found.append(round(int(resident) * pages, 1))
    if len(found) == 10:
      break
  print(json.dumps(found))


def begin(folder: str, workers: int, step: int) -> None:
  """Print the seconds to the first batch from `step` on, and digests of three batches."""
  begun = time.perf_counter()
  batches = ours(folder, workers, layers=2, step=step)
  made = [next(batches)]
  seconds = time.perf_counter() - begun
  made += [next(batches) for _ in range(2)]
  print(json.dumps([seconds, [hashlib.sha256(batch.tobytes()).hexdigest() for batch in made]]))


def walk(folder: str, workers: int) -> None:
  """Print the digests of `begin` at all `STEPS` but the last, from one uninterrupted run."""
  last = STEPS[-2] + 3
  batches = itertools.islice(ours(folder, workers, layers=2), last)
  digests = [hashlib.sha256(batch.tobytes()).hexdigest() for batch in batches]
  print(json.dumps({step: digests[step : step + 3] for step in STEPS[:-1]}))


TASKS = {'serve': serve, 'remember': remember, 'begin': begin, 'walk': walk, 'prepare': prepare}


def started(task: str, *argv) -> subprocess.Popen:
  """Start a process for a task."""
  return subprocess.Popen(
    [sys.executable, __file__, '--task', task, *map(str, argv)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    env={'TF_CPP_MIN_LOG_LEVEL': '3', 'CUDA_VISIBLE_DEVICES': '', **os.environ},
    text=True,
  )


def answer(task: str, *argv):
  """Run a task in a new process, and return what it prints."""
  out, _ = started(task, *argv).communicate()
  return json.loads(out)


def rates(folder: str, workers: int, rounds: int, count: int) -> dict[str, list[float]]:
  """Return images/s by kind, one per round."""
  servers = {kind: started('serve', kind, folder, workers, count) for kind in KINDS}
  figures: dict[str, list[float]] = {kind: [] for kind in KINDS}
  for turn in range(rounds + 1):
    for kind in random.sample(KINDS, len(KINDS)):
      stdin, stdout = servers[kind].stdin, servers[kind].stdout
      assert stdin is not None
      assert stdout is not None
      stdin.write('go\n')
      stdin.flush()
      figure = float(stdout.readline())
      figures[kind] += [figure] if turn else []
  for server in servers.values():
    server.communicate()
  return figures


def main(images='2000', workers='2', rounds='7', output='') -> None:
  """Measure, and print the tables; `output` is the JSON file."""
  count, threads = int(images), int(workers)
  with tempfile.TemporaryDirectory() as folder:
    started('prepare', folder, count).communicate()
    size = statistics.mean(len(image) for image in photographs(20)) / 1000
    figures = rates(folder, threads, int(rounds), count)
    print(
      f'{count} JPEGs of {size:.0f} KB, {threads} threads, medians of {rounds} (range), images/s'
    )
    for kind, found in figures.items():
      print(f'{kind:24} {statistics.median(found):8.0f} ({min(found):.0f}–{max(found):.0f})')
    ratios = {}
    for one, other, goal in RATIOS:
      pairs = [a / b for a, b in zip(figures[one], figures[other], strict=True)]
      ratios[f'{one} / {other}'] = statistics.median(pairs)
      wanted = f', goal {goal}' if goal else ''
      middle, least, most = statistics.median(pairs), min(pairs), max(pairs)
      print(f'{one} / {other}: {middle:.2f} ({least:.2f}–{most:.2f}){wanted}')
    memory = answer('remember', folder, threads)
    print(f'resident MiB over {RECORDS:,} records: {memory}')
    known = answer('walk', folder, threads)
    seconds: dict[int, list[float]] = {step: [] for step in STEPS}
    same = True
    for _ in range(int(rounds)):
      for step in random.sample(STEPS, len(STEPS)):
        first, digests = answer('begin', folder, threads, step)
        seconds[step].append(first)
        same &= digests == known.setdefault(str(step), digests)
    for step, found in seconds.items():
      print(f'first batch from step {step:,}: {statistics.median(found):.2f} s')
    print(f'batches equal those of an uninterrupted run: {same}')
  if output:
    result = {'images_per_second': figures, 'ratios': ratios, 'resident_MiB': memory}
    result |= {'seconds_to_first_batch': seconds, 'same_batches': same}
    pathlib.Path(output).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1]))
  if sys.argv[1:2] == ['--task']:
    TASKS[sys.argv[2]](*(int(a) if a.isdecimal() else a for a in sys.argv[3:]))
  else:
    main(*sys.argv[1:])
