"""Accuracy and time of the small Mixer, ViT and BiT on the embedded digits, from several seeds.

Usage: python benchmarks/digits_families.py WORKDIR [SEEDS] [CONFIG…]   (3, all)

Trains configs/digits.py, digits_vit.py and digits_bit.py into WORKDIR, each from SEEDS seeds, one
after the other, without compiled programs of earlier runs. The times are those of complete
commands, start-up and compilation included: run it on an idle machine. Prints a table, and writes
benchmarks/results/digits_families.json.
"""

import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent
CONFIGS = ('digits', 'digits_vit', 'digits_bit')


def trained(config: str, workdir: pathlib.Path, seed: int) -> dict[str, float]:
  """Train one run; return its seed, top-1 on the test split, %, and seconds."""
  with tempfile.TemporaryDirectory() as cache:
    began = time.monotonic()
    subprocess.run(
      [
        *(sys.executable, '-m', 'mixer_jax', 'train', f'--config=configs/{config}.py'),
        *(f'--workdir={workdir}', f'--config.seed={seed}'),
      ],
      cwd=ROOT,
      env={**os.environ, 'MIXER_JAX_CACHE': cache},
      check=True,
    )
    seconds = time.monotonic() - began
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  top1 = [row['top1'] for row in rows if row.get('event') == 'eval'][-1]
  return {'seed': seed, 'top1': top1, 'seconds': round(seconds, 1)}


def main(workdir: str, seeds: str = '3', *configs: str) -> None:
  """Train all, print the table and write the results."""
  folder = pathlib.Path(workdir).absolute()
  results = {
    config: [trained(config, folder / config / str(seed), seed) for seed in range(int(seeds))]
    for config in configs or CONFIGS
  }
  for config, runs in results.items():
    figures = ', '.join(f'{run["top1"]:.2f} % in {run["seconds"]:.0f} s' for run in runs)
    print(f'{config:12}{figures}')
  report = {'cores': os.cpu_count(), 'runs': results}
  path = ROOT / 'benchmarks' / 'results' / 'digits_families.json'
  path.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
  main(*sys.argv[1:])
