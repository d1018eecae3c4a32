"""Worker processes of the training input: their rate on a host with many cores, cost and memory.

Usage: python benchmarks/input_host.py [--before=TREE] [--rounds=9] [--json=FILE] …   (see --help)

Parts, each with processes that take turns (`turns.py`); TREE is another state of this repository
(`git worktree add TREE COMMIT`):

* `played`: images/s where making an image of 224×224 takes 9 ms without Python's lock
  (`played.py`), 96 at once, as on a host with more cores than this machine. Records of 65 KB are
  read from TFRecord.
* `cost`: CPU time per image of workers and of the process that takes the batches, compared with a
  loop over `training_image` on as many cores. JPEGs of 500×375, cropped and flipped.
* `memory`: of each worker, without the memory of the batches, which the workers share; over 200,000
  small JPEGs.
* `small`: `digits`, whose images are made in the loop's own thread: images/s, and seconds from the
  start of a process to its first batch, also with workers.
"""

import argparse
import json
import pathlib
import random
import re
import statistics
import tempfile
import time
from typing import Any

import numpy as np
from batches import data_config, photographs_of, training_batches
from photographs import photographs, prepare
from turns import (
  ROOT,
  answer,
  children,
  described,
  in_turns,
  run_task,
  serve,
  started,
  turns_parser,
)

NOW, BEFORE = 'mixer_jax', 'mixer_jax before'
PLAYED_SECONDS, PLAYED_AT_ONCE, PLAYED_WORKERS = 0.009, 96, (0, 1, 2, 4, 6)
DIGITS: dict[str, Any] = {'config': 'digits', 'image_size': 16, 'batch_size': 128}
SMALL_JPEGS, SMALL_SIDE, SAMPLES = 200_000, 64, 10
MIB = 2**20


def produce(seconds: float, **kwargs: Any) -> None:
  """Serve training batches."""
  batches = training_batches(**kwargs)
  serve(lambda: len(next(batches)), seconds)


def loop(seconds: float, image_size: int) -> None:
  """Serve training images made by a plain loop."""
  from mixer_jax.data.training_image import training_image

  images, config, rng = list(photographs(100)), data_config(), np.random.default_rng(0)

  def make() -> int:
    for image in images:
      training_image(image, config, image_size, rng)
    return len(images)

  serve(make, seconds)


def first(**kwargs: Any) -> None:
  """Print a line after the first batch."""
  next(training_batches(**kwargs))
  print('{}', flush=True)


def remember(images: int, **kwargs: Any) -> None:
  """Print MiB of this process and of each worker, ten times while `images` are made."""
  batches, made, samples = training_batches(**kwargs), 0, []
  while len(samples) < SAMPLES:
    made += len(next(batches))
    if made >= (len(samples) + 1) * images / SAMPLES:
      samples.append({'taker': memory('self'), 'workers': [memory(pid) for pid in children()]})
  print(json.dumps(samples))


def memory(pid: int | str) -> dict[str, float]:
  """Return the MiB of a process without the batches: resident, its share of them, and its own.

  Pages that several processes map, as those of libraries, are resident in each, and shared among
  them in `share`.
  """
  found = {'resident': 0.0, 'share': 0.0, 'own': 0.0}
  keys = {'Rss': 'resident', 'Pss': 'share', 'Private_Clean': 'own', 'Private_Dirty': 'own'}
  of_batches = False
  for line in pathlib.Path(f'/proc/{pid}/smaps').read_text().splitlines():
    if re.match(r'[0-9a-f]+-[0-9a-f]+ ', line):
      of_batches = '/memfd:' in line
    elif not of_batches and (key := keys.get(line.partition(':')[0])):
      found[key] += int(line.split()[1]) / 1024
  return found


def played(folder: str, args: argparse.Namespace) -> dict[str, Any]:
  """Measure images/s of a played host."""
  shared = {'seconds': args.seconds, 'batch_size': 128, 'played_seconds': PLAYED_SECONDS}
  data = photographs_of(folder)
  groups = {}
  for workers in PLAYED_WORKERS:
    threads = PLAYED_AT_ONCE // (workers or 1)
    fields = {**shared, **data, 'workers': workers, 'threads': threads}
    groups[f'{workers} × {threads}'] = [started(__file__, 'produce', **fields)]
  if args.before:
    for threads in (16, PLAYED_AT_ONCE):
      fields = {**shared, **data, 'threads': threads}
      groups[f'before, {threads}'] = [started(__file__, 'produce', args.before, **fields)]
  turns = in_turns(groups, args.rounds)
  print(f'played host, {PLAYED_AT_ONCE / PLAYED_SECONDS:,.0f} images/s possible, goal 9,000')
  print('workers × threads: images/s; µs of CPU per image, workers and taker')
  for name, found in turns.items():
    speed = described(turn['images_per_second'] for turn in found)
    inside = described(turn['workers_cpu_us_per_image'] for turn in found)
    print(f'{name:12} {speed:24} {inside:16} {described(t["cpu_us_per_image"] for t in found)}')
  return {'played': turns}


def cost(folder: str, args: argparse.Namespace) -> dict[str, Any]:
  """Measure CPU time per image beside making it."""
  # Little is made ahead: what is left over at the end of a turn counts as its cost.
  ahead = {'workers': args.cores, 'threads': 2, 'prefetch': 0, 'batch_size': 128}
  fields = photographs_of(folder, **ahead)
  groups = {
    'workers': [started(__file__, 'produce', seconds=args.seconds, **fields)],
    'loop': [
      started(__file__, 'loop', seconds=args.seconds, image_size=224) for _ in range(args.cores)
    ],
  }
  turns = in_turns(groups, args.rounds)
  alone = [turn['cpu_us_per_image'] for turn in turns['loop']]
  inside = [turn['workers_cpu_us_per_image'] for turn in turns['workers']]
  taker = [turn['cpu_us_per_image'] for turn in turns['workers']]
  more = [a - b for a, b in zip(inside, alone, strict=True)]
  print(f'CPU µs per image: plain loop {described(alone)}, workers {described(inside)}')
  print(f'workers beside the loop {described(more)}, goal 50; taker {described(taker, 1)}, goal 15')
  return {'cost': turns}


def resident(folder: str, args: argparse.Namespace) -> dict[str, Any]:
  """Measure the memory of workers: large images briefly, and many small ones."""
  small = f'{folder}/{SMALL_SIDE}'
  prepare(small, 1000, SMALL_SIDE, SMALL_SIDE)
  shared = {'workers': args.cores, 'threads': 16}
  result = {}
  for name, place, side, images in (
    (f'{args.count:,} JPEGs of 500×375', folder, 224, args.count),
    (f'{SMALL_JPEGS:,} JPEGs of {SMALL_SIDE}×{SMALL_SIDE}', small, SMALL_SIDE, SMALL_JPEGS),
  ):
    fields = photographs_of(place, image_size=side, **shared)
    result[name] = samples = answer(__file__, 'remember', images=images, **fields)
    print(f'MiB of a worker with 16 threads, {name}, goal 150:')
    for key in ('resident', 'share', 'own'):
      largest = [max(worker[key] for worker in sample['workers']) for sample in samples]
      print(f'  {key:9}', *(f'{value:.0f}' for value in largest))
  return {'memory': result}


def small(_folder: str, args: argparse.Namespace) -> dict[str, Any]:
  """Measure `digits`: images/s, and seconds to the first batch."""
  trees = {NOW: ROOT, **({BEFORE: args.before} if args.before else {})}
  groups = {
    name: [started(__file__, 'produce', tree, seconds=args.seconds, **DIGITS)]
    for name, tree in trees.items()
  }
  turns = in_turns(groups, args.rounds)
  for name, found in turns.items():
    print(f'digits, {name}: {described(turn["images_per_second"] for turn in found)} images/s')
  starts: dict[str, tuple[Any, dict]] = {name: (tree, DIGITS) for name, tree in trees.items()}
  starts[f'{NOW}, 2 workers'] = ROOT, {**DIGITS, 'workers': 2, 'threads': 2}
  seconds: dict[str, list[float]] = {name: [] for name in starts}
  for _ in range(args.rounds):
    for name in random.sample(list(starts), len(starts)):
      tree, fields = starts[name]
      begun = time.perf_counter()
      process = started(__file__, 'first', tree, **fields)
      assert process.stdout is not None
      process.stdout.readline()
      seconds[name].append(time.perf_counter() - begun)
      process.communicate()
  for name, found in seconds.items():
    print(f'digits, {name}: first batch {described(found, 2)} s after the start of the process')
  for other in (BEFORE,) if args.before else ():
    later = [a - b for a, b in zip(seconds[NOW], seconds[other], strict=True)]
    print(f'digits: first batch {statistics.median(later):+.2f} s compared with {other}, goal +.3')
  return {'small': {'turns': turns, 'seconds_to_first_batch': seconds}}


PARTS = {'played': played, 'cost': cost, 'memory': resident, 'small': small}


def main() -> None:
  """Measure, and print the tables."""
  parser = turns_parser()
  parser.add_argument('--parts', default=','.join(PARTS), help='default: %(default)s')
  parser.add_argument('--count', type=int, default=2000, help='JPEGs in the data set')
  parser.add_argument('--cores', type=int, default=2, help='workers of `cost` and `memory`')
  args = parser.parse_args()
  result: dict[str, Any] = {}
  with tempfile.TemporaryDirectory() as temporary:
    folder = args.data or temporary
    prepare(folder, args.count)
    for part in args.parts.split(','):
      result |= PARTS[part](folder, args)
  if args.json:
    args.json.write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  if not run_task({'produce': produce, 'loop': loop, 'first': first, 'remember': remember}):
    main()
