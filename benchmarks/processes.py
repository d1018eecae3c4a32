"""Images/s of 2 processes × 4 virtual devices compared with 1 process × 8, on the same cores.

Usage: python benchmarks/processes.py [ROUNDS]   (3)

The digits Mixer at a batch of 1024, whose step takes more than 200 ms; the two take turns, each in
a new process or pod. The rate of a run is the median of its logged rates, which leave out the
first step and saving; then medians over the rounds.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
FLAGS = (
  *('train', '--config=configs/digits.py', '--config.batch_size=1024', '--config.total_steps=24'),
  *('--config.log_every=2', '--config.eval_every=0', '--config.checkpoint_every=0'),
  '--config.optimizer.warmup_steps=2',
)


def images_per_second(processes: int, devices: int, data: str) -> float:
  """Train once, and return the median over the logged steps."""
  with tempfile.TemporaryDirectory() as folder:
    workdir = pathlib.Path(folder) / 'run'
    pod = ROOT / 'launch' / 'local_pod.sh'
    subprocess.run(
      [
        *(str(pod), str(processes), str(devices), *FLAGS),
        *(f'--workdir={workdir}', f'--config.data.data_dir={data}'),
      ],
      env={**os.environ, 'PYTHON': sys.executable, 'MIXER_JAX_RESTARTS': '0'},
      cwd=ROOT,
      check=True,
      capture_output=True,
    )
    rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  return statistics.median(row['images_per_second'] for row in rows if row.get('images_per_second'))


def main() -> None:
  """Print both rates, the time of a step and the ratio."""
  rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
  rates = {(1, 8): [], (2, 4): []}
  with tempfile.TemporaryDirectory() as data:
    for _ in range(rounds):
      for shape, found in rates.items():
        found.append(images_per_second(*shape, data))
  for (processes, devices), found in rates.items():
    rate = statistics.median(found)
    seconds = 1024 / rate
    print(f'{processes} × {devices}: {rate:,.0f} images/s, {1000 * seconds:.0f} ms per step')
  ratios = [two / one for one, two in zip(rates[1, 8], rates[2, 4], strict=True)]
  print(f'2 × 4 / 1 × 8: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})')


if __name__ == '__main__':
  main()
