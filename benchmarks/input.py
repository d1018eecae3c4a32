"""Images/s of the training input, compared with the package before, OpenCV and tf.data; restarts.

Usage: python benchmarks/input.py [--before=TREE] [--rounds=9] [--json=FILE] …   (see --help)

JPEGs of 500×375 pixels and about 65 KB are prepared as `imagenet2012` in a temporary folder, as
TFRecord. All read, decode, cut out a random part (inception crop) and resize it to 224×224, mirror
half of the images and make batches of 32; bare OpenCV has the encoded images in memory already,
knows its crops, mirrors nothing and makes no batches. tf.data runs twice: decoding the complete
JPEG, and decoding only the crop. With RandAugment both run the authors' operations, TensorFlow
those of tests/data/test_randaugment.py. TREE is another state of this repository (`git worktree
add TREE COMMIT`).

Each is a separate process with as many threads (`turns.py`). Prints medians of the rounds with
their ranges, of images/s and of CPU milliseconds per image, and the medians of the ratios within a
round. Those of CPU time say what a machine of one's own would do, if this one is shared.

Then new processes start at different steps: seconds to the first batch, and whether the batches
equal those of an uninterrupted run.
"""

import collections
import concurrent.futures
import hashlib
import itertools
import json
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from batches import BATCH, PREFETCH, photographs_of, training_batches
from photographs import prepare
from turns import ROOT, answer, described, in_turns, ratios, run_task, serve, started, turns_parser

SIZE, MAGNITUDE = 224, 15
STEPS = (0, 7, 1000, 93_750)  # to start at; the last is the end of 300 epochs of 10,000 images

OURS, WORKERS, BEFORE = 'mixer_jax', 'mixer_jax, worker processes', 'mixer_jax before'
OPENCV, TF_DATA, TF_DATA_PART = 'OpenCV', 'tf.data', 'tf.data, part decoded'
AUGMENTED, BEFORE_AUGMENTED = f'{OURS}, RandAugment', f'{BEFORE}, RandAugment'
TF_AUGMENTED = f'{TF_DATA}, RandAugment'
RATIOS = (
  *((OURS, BEFORE, 1.05), (OURS, TF_DATA_PART, 1.1), (OURS, TF_DATA, None), (OURS, OPENCV, None)),
  *((WORKERS, BEFORE, 1.05), (WORKERS, TF_DATA_PART, 1.1)),
  *((AUGMENTED, BEFORE_AUGMENTED, 1.0), (AUGMENTED, TF_AUGMENTED, None)),
)
"""(numerator, denominator, goal)."""


def ours(
  folder: str, threads: int, *, layers: int = 0, first_step: int = 0, **data: Any
) -> Iterator[np.ndarray]:
  """Yield batches as `mixer-jax train` reads them."""
  recipe = {'randaugment_layers': layers, 'randaugment_magnitude': float(MAGNITUDE)}
  fields = {'threads': threads, 'prefetch': PREFETCH, **recipe, **data}
  return training_batches(
    image_size=SIZE, first_step=first_step, **photographs_of(folder, **fields)
  )


def opencv(folder: str, threads: int) -> Iterator[list[np.ndarray]]:
  """Yield lists of images, read with OpenCV alone."""
  import cv2

  from mixer_jax.data.catalog import open_source

  cv2.setNumThreads(0)
  source = open_source('imagenet2012', 'train', folder)
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
  with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    ready = collections.deque(pool.submit(made, next(places)) for _ in range(PREFETCH))
    while True:
      images = []
      for _ in range(BATCH):
        images.append(ready.popleft().result())
        ready.append(pool.submit(made, next(places)))
      yield images


def tf_data(folder: str, threads: int, *, layers: int = 0, part: bool = False):
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
  options.threading.private_threadpool_size = threads
  options.threading.max_intra_op_parallelism = 1
  builder = tfds.builder('imagenet2012', data_dir=folder)
  dataset = builder.as_dataset(split='train', decoders={'image': tfds.decode.SkipDecoding()})
  dataset = dataset.repeat().map(made, num_parallel_calls=threads).batch(BATCH)
  return dataset.prefetch(PREFETCH // BATCH).with_options(options).as_numpy_iterator()


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


def produce(maker: str, seconds: float, **kwargs: Any) -> None:
  """Serve batches of a maker."""
  batches = {'ours': ours, 'opencv': opencv, 'tf_data': tf_data}[maker](**kwargs)
  serve(lambda: len(next(batches)), seconds)


def begin(folder: str, threads: int, step: int) -> None:
  """Print the seconds to the first batch from `step` on, and digests of three batches."""
  begun = time.perf_counter()
  batches = ours(folder, threads, layers=2, first_step=step)
  made = [_digest(next(batches))]
  seconds = time.perf_counter() - begun
  made += [_digest(next(batches)) for _ in range(2)]
  print(json.dumps([seconds, made]))


def walk(folder: str, threads: int) -> None:
  """Print the digests of `begin` at all `STEPS` but the last, from one uninterrupted run."""
  batches = itertools.islice(ours(folder, threads, layers=2), STEPS[-2] + 3)
  digests = [_digest(batch) for batch in batches]
  print(json.dumps({step: digests[step : step + 3] for step in STEPS[:-1]}))


def _digest(batch: np.ndarray) -> str:
  return hashlib.sha256(batch.tobytes()).hexdigest()


def rates(folder: str, threads: int, rounds: int, seconds: float, before: str) -> dict:
  """Return the turns of each kind."""
  makers: dict[str, dict[str, Any]] = {
    OURS: {'maker': 'ours'},
    WORKERS: {'maker': 'ours', 'workers': threads, 'threads': 1},
    OPENCV: {'maker': 'opencv'},
    TF_DATA: {'maker': 'tf_data'},
    TF_DATA_PART: {'maker': 'tf_data', 'part': True},
    AUGMENTED: {'maker': 'ours', 'layers': 2},
    TF_AUGMENTED: {'maker': 'tf_data', 'layers': 2},
  }
  if before:
    makers[BEFORE] = {**makers[OURS], 'root': before}
    makers[BEFORE_AUGMENTED] = {**makers[AUGMENTED], 'root': before}
  shared = {'folder': folder, 'threads': threads, 'seconds': seconds}
  groups = {
    name: [started(__file__, 'produce', **{'root': ROOT, **shared, **maker})]
    for name, maker in makers.items()
  }
  return in_turns(groups, rounds)


def print_rates(turns: dict) -> dict[str, dict[str, float]]:
  """Print the tables of `rates`, and return the medians of the ratios."""
  for name, found in turns.items():
    speed = described(turn['images_per_second'] for turn in found)
    cost = (turn['cpu_us_per_image'] + turn['workers_cpu_us_per_image'] for turn in found)
    print(f'{name:30} {speed:22} images/s, {described((c / 1000 for c in cost), 2)} ms of CPU')
  result = {}
  for one, other, goal in RATIOS:
    if one in turns and other in turns:
      speed = ratios(turns, one, other, lambda turn: turn['images_per_second'])
      cost = ratios(
        turns, other, one, lambda turn: turn['cpu_us_per_image'] + turn['workers_cpu_us_per_image']
      )
      wanted = f', goal {goal}' if goal else ''
      print(f'{one} / {other}: {described(speed, 2)}, by CPU time {described(cost, 2)}{wanted}')
      result[f'{one} / {other}'] = {
        'images_per_second': statistics.median(speed),
        'images_per_cpu_second': statistics.median(cost),
      }
  return result


def restarts(folder: str, threads: int, rounds: int) -> tuple[dict[int, list[float]], bool]:
  """Return the seconds to the first batch by step; and whether all batches were the same."""
  known = answer(__file__, 'walk', folder=folder, threads=threads)
  seconds: dict[int, list[float]] = {step: [] for step in STEPS}
  same = True
  for _ in range(rounds):
    for step in random.sample(STEPS, len(STEPS)):
      first, digests = answer(__file__, 'begin', folder=folder, threads=threads, step=step)
      seconds[step].append(first)
      same &= digests == known.setdefault(str(step), digests)
  return seconds, same


def main() -> None:
  """Measure, and print the tables."""
  parser = turns_parser()
  parser.add_argument('--images', type=int, default=2000, help='JPEGs in the data set')
  parser.add_argument('--threads', type=int, default=2, help='of each process')
  args = parser.parse_args()
  with tempfile.TemporaryDirectory() as temporary:
    folder = args.data or temporary
    prepare(folder, args.images)
    turns = rates(folder, args.threads, args.rounds, args.seconds, args.before)
    print(f'{args.images} JPEGs, {args.threads} threads, medians of {args.rounds} rounds (range)')
    result: dict[str, Any] = {'turns': turns, 'ratios': print_rates(turns)}
    seconds, same = restarts(folder, args.threads, args.rounds)
  for step, found in seconds.items():
    print(f'first batch from step {step:,}: {described(found, 2)} s')
  print(f'batches equal those of an uninterrupted run: {same}')
  result |= {'seconds_to_first_batch': seconds, 'same_batches': same}
  if args.json:
    args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  if not run_task({'produce': produce, 'begin': begin, 'walk': walk}):
    main()
