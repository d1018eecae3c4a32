"""CPU time per image of the training input: the built-in rate of `mixer-jax plan`.

Usage: python benchmarks/host_input.py [BLOCKS] [ROUNDS] [JSON]   (40, 5, no file)

Photographs of 500 × 375 pixels are read, decoded, cropped, resized and mirrored by one thread, in
blocks of 16, at several sizes of the model's image and numbers of RandAugment layers, which take
turns; a least-squares fit of the minima gives the time per image and pixel. Then a worker process
does the same at one size, which adds the time for messages, and that of the process that feeds the
devices. All are minima: other programs, which share the caches of the machine, only add CPU time.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import sys
import time

import numpy as np

CASES = tuple(itertools.product((128, 224, 384), (0, 2)))
"""(side of the model's image in pixels, layers of RandAugment)."""
MAGNITUDE = 15.0
BLOCK = 16  # images


WORKER = (224, 0)
"""The case that a worker process does."""


def main(blocks='40', rounds='5', output='') -> None:
  """Measure, print the minima and their fit; `output` is the JSON file."""
  from configs import common
  from mixer_jax import hardware
  from mixer_jax.bench import data_input, input_rates
  from mixer_jax.data.data_config import DataConfig
  from mixer_jax.data.examples import TrainingExamples
  from mixer_jax.data.parallelism import Parallelism
  from mixer_jax.data.pipeline import Process
  from mixer_jax.runs.data_splits import open_train

  with data_input.photographs(256) as folder:
    size = statistics.mean(path.stat().st_size for path in pathlib.Path(folder).rglob('*.jpg'))
    config = DataConfig(**{**common.get_config().data, 'name': f'folder:{folder}'})
    config = dataclasses.replace(config, eval_split='train', randaugment_magnitude=MAGNITUDE)
    source = open_train(config)
    examples = {
      (side, layers): TrainingExamples(
        source, dataclasses.replace(config, randaugment_layers=layers), side, seed=0
      )
      for side, layers in CASES
    }
    found = {case: [] for case in CASES}
    for block, case in itertools.product(range(int(blocks)), CASES):
      columns = examples[case].columns()
      rows = {name: np.zeros((BLOCK, *one.shape), one.dtype) for name, one in columns.items()}
      begun = time.process_time()
      examples[case].fill(range(BLOCK * block, BLOCK * (block + 1)), rows)
      found[case].append((time.process_time() - begun) / BLOCK)
    training = input_rates.TrainingInput(source, config, WORKER[0], 256, Process())
    worked = [training.measured(Parallelism(1, 1), 1) for _ in range(int(rounds))]
  least = {case: min(seconds) for case, seconds in found.items()}
  terms = np.array([(1, side**2, layers * side**2) for side, layers in CASES])
  constants = np.linalg.lstsq(terms, np.array([least[case] for case in CASES]), rcond=None)[0]
  fed = min(row['feeding_seconds_per_image'] for row in worked)
  worker = min(row['cpu_seconds_per_image'] - row['feeding_seconds_per_image'] for row in worked)
  print(f'{hardware.cpu_name()}, JPEGs of {size / 1000:.0f} KB')
  for (side, layers), fit in zip(CASES, terms @ constants, strict=True):
    seconds = found[side, layers]
    print(
      f'{side} px, {layers} layers: {1000 * min(seconds):.3f} ms (median '
      f'{1000 * statistics.median(seconds):.3f}), fit {1000 * fit:.3f}'
    )
  print(f'a worker at {WORKER[0]} px: {1000 * worker:.3f} ms; feeding: {1e6 * fed:.1f} µs')
  print('per image, per pixel, per layer and pixel:', ', '.join(f'{x:.3g} s' for x in constants))
  if output:
    result = {
      'cpu': hardware.cpu_name(),
      'cpu_seconds_per_image': {f'{side} px, {n} layers': found[side, n] for side, n in CASES},
      'constants': list(constants),
      'worker': worked,
    }
    pathlib.Path(output).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1]))
  main(*sys.argv[1:])
