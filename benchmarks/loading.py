"""Time and memory of loading a full-size weights file, compared with `numpy.load`.

Usage: python benchmarks/loading.py [VARIANT] [ROUNDS]   (L/16, 9 rounds)

Files of random weights are written to a temporary folder. Readers take turns, in random order in
each round; every read is a separate process, after one that warms the page cache. `numpy.load`
reads every array. Prints medians, their ratios to `numpy.load`, and the peak memory beyond the
interpreter's own.
"""

import json
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile

READ = """
import json, resource, sys, time
kind, path, small = sys.argv[1:]
import numpy as np
from mixer_jax.checkpoints import layouts
layouts.read(small)  # so that imports are not measured
def numpy_load():
  with np.load(path) as file:
    return {name: file[name] for name in file.files}
peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
before, begun = peak(), time.perf_counter()
kept = numpy_load() if kind == 'numpy' else layouts.read(path)
print(json.dumps([time.perf_counter() - begun, peak() - before]))
"""


MAKE = """
import sys
import numpy as np
from mixer_jax.checkpoints import layouts
from mixer_jax.models import VARIANTS, param_shapes, parameters
config, rng = VARIANTS[sys.argv[1]], np.random.default_rng(0)
shapes = param_shapes(config).items()
params = parameters.unflatten({n: rng.standard_normal(s, np.float32) for n, s in shapes})
for path in sys.argv[2:]:
  layouts.save(path, config, params)
"""


def python(code: str, *argv) -> str:
  """Run this code in a new process, and return its output; a child inherits its parent's peak."""
  command = [sys.executable, '-c', code, *map(str, argv)]
  return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def main(variant: str = 'L/16', rounds: str = '9') -> None:
  """Measure, and print the table."""
  small = pathlib.Path(__file__).parent.parent / 'tests' / 'golden' / 'mixer_tiny.npz'
  with tempfile.TemporaryDirectory() as folder:
    files = {name: pathlib.Path(folder) / f'weights{name}' for name in ('.npz', '.safetensors')}
    python(MAKE, variant, *files.values())
    readers = {
      'numpy.load of the .npz': ('numpy', files['.npz']),
      'mixer_jax, .npz': ('ours', files['.npz']),
      'mixer_jax, .safetensors': ('ours', files['.safetensors']),
    }
    figures: dict[str, list] = {name: [] for name in readers}
    for turn in range(int(rounds) + 1):
      for name in random.sample(sorted(readers), len(readers)):
        kind, path = readers[name]
        figures[name] += [json.loads(python(READ, kind, path, small))] if turn else []
    bytes_ = files['.npz'].stat().st_size
    base = statistics.median(seconds for seconds, _ in figures['numpy.load of the .npz'])
    print(f'{variant}, {bytes_ / 2**20:.0f} MiB, medians of {rounds}')
    for name, pairs in figures.items():
      seconds = statistics.median(s for s, _ in pairs)
      memory = statistics.median(m for _, m in pairs)
      print(
        f'{name:24} {seconds:6.2f} s  {seconds / base:5.2f} of numpy.load  '
        f'peak {memory / bytes_:.2f} of the file'
      )


if __name__ == '__main__':
  main(*sys.argv[1:])
