"""CPU time per image of the training input: the built-in rate of `mixer-jax plan`.

Usage: python benchmarks/host_input.py [ROUNDS] [JSON]   (9, no file)

Photographs of 500 × 375 pixels are read, decoded, cropped, resized and mirrored by a worker
process, at several sizes of the model's image and numbers of RandAugment layers, which take turns.
A least-squares fit gives the constants of mixer_jax/planning/host_input.py. It is of the minima:
other programs on the machine, which share its caches, only add CPU time.
"""

import dataclasses
import itertools
import json
import os
import pathlib
import statistics
import sys

import numpy as np

CASES = tuple(itertools.product((128, 224, 384), (0, 2)))
"""(side of the model's image in pixels, layers of RandAugment)."""
MAGNITUDE = 15.0


def main(rounds='9', output='') -> None:
  """Measure, print the minima and their fit; `output` is the JSON file."""
  from configs import common
  from mixer_jax import hardware
  from mixer_jax.bench import data_input, input_rates
  from mixer_jax.data.data_config import DataConfig
  from mixer_jax.data.parallelism import Parallelism, cores
  from mixer_jax.data.pipeline import Process
  from mixer_jax.runs.data_splits import open_train

  seconds = {case: [] for case in CASES}
  feeding = {case: [] for case in CASES}
  with data_input.photographs(256) as folder:
    size = statistics.mean(path.stat().st_size for path in pathlib.Path(folder).rglob('*.jpg'))
    config = DataConfig(**{**common.get_config().data, 'name': f'folder:{folder}'})
    config = dataclasses.replace(config, eval_split='train', randaugment_magnitude=MAGNITUDE)
    for _, case in itertools.product(range(int(rounds)), CASES):
      data = dataclasses.replace(config, randaugment_layers=case[1])
      source = open_train(data)
      training = input_rates.TrainingInput(source, data, case[0], 256, Process())
      row = training.measured(Parallelism(1, 1), 3)
      seconds[case].append(row['cpu_seconds_per_image'] - row['feeding_seconds_per_image'])
      feeding[case].append(row['feeding_seconds_per_image'])
  least = {case: min(found) for case, found in seconds.items()}
  terms = np.array([(1, side**2, layers * side**2) for side, layers in CASES])
  constants = np.linalg.lstsq(terms, np.array([least[case] for case in CASES]), rcond=None)[0]
  fed = min(itertools.chain(*feeding.values()))
  print(f'{hardware.cpu_name()}, {cores()} cores, JPEGs of {size / 1000:.0f} KB')
  for case, fit in zip(CASES, terms @ constants, strict=True):
    print(
      f'{case[0]} px, {case[1]} layers: {1000 * least[case]:.3f} ms (median '
      f'{1000 * statistics.median(seconds[case]):.3f}), fit {1000 * fit:.3f}'
    )
  print(f'feeding: {1e6 * fed:.1f} µs')
  print('constants:', ', '.join(f'{value:.3g}' for value in constants))
  if output:
    named = {f'{side} px, {layers} layers': seconds[side, layers] for side, layers in CASES}
    result = {'cpu': hardware.cpu_name(), 'cores': cores(), 'cpu_seconds_per_image': named}
    result |= {'feeding_seconds_per_image': fed, 'constants': list(constants)}
    pathlib.Path(output).write_text(json.dumps(result, indent=2) + '\n')


if __name__ == '__main__':
  sys.path.insert(0, os.fspath(pathlib.Path(__file__).parents[1]))
  main(*sys.argv[1:])
