"""Time from the command to the first step, by parts: of the first start of a run, and the second.

Usage: python benchmarks/startup.py [ROUNDS] [CONFIG] [FLAGS…]   (3 configs/digits.py)

Each round begins with a new workdir and an empty cache of compiled programs. A run gets a SIGTERM
after its first step, and saves; the second start is the same command again. A third start may not
use the cache, which shows how much time that saves. Medians of the rounds.
"""

import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).parent.parent


def rows(workdir: pathlib.Path) -> list[dict]:
  """Return the rows `startup` written so far, oldest first."""
  file = workdir / 'metrics.jsonl'
  lines = file.read_text().splitlines() if file.exists() else []
  complete = [json.loads(line) for line in lines if line.endswith('}')]
  return [row for row in complete if row.get('event') == 'startup']


def start(command: list[str], workdir: pathlib.Path, **environment: str) -> dict:
  """Start a run, end it after its first step, and return its row `startup`."""
  before = len(rows(workdir))
  with subprocess.Popen(
    [*command, f'--workdir={workdir}'],
    cwd=ROOT,
    env={**os.environ, **environment},
    stdout=subprocess.DEVNULL,
    stderr=subprocess.DEVNULL,
  ) as process:
    while len(rows(workdir)) == before:
      if process.poll() is not None:
        raise SystemExit(f'{" ".join(command)} ended with exit code {process.returncode}')
      time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
  return rows(workdir)[-1]


def main(count: str = '3', config: str = 'configs/digits.py', *flags: str) -> None:
  """Print a table of seconds: one line per start, one column per part."""
  command = [sys.executable, '-m', 'mixer_jax', 'train', f'--config={config}', *flags]
  starts: dict[str, list[dict]] = {'first': [], 'second': [], 'second, no cache': []}
  for _ in range(int(count)):
    with tempfile.TemporaryDirectory() as name:
      folder = pathlib.Path(name)
      for which, found in starts.items():
        kept = '0' if which == 'second, no cache' else ''
        cache = {'MIXER_JAX_CACHE': str(folder / 'cache'), 'MIXER_JAX_COMPILED_GIB': kept}
        found.append(start(command, folder / 'run', **cache))
  parts = ('imports', 'devices', 'data', 'init', 'restore', 'input', 'compile', 'first_step')
  print(f'{"":18}' + ''.join(f'{part:>11}' for part in (*parts, 'total')))
  for which, found in starts.items():
    medians = [statistics.median(row.get(part, 0) for row in found) for part in (*parts, 'total')]
    print(f'{which:18}' + ''.join(f'{seconds:11.2f}' for seconds in medians))
  first, second, bare = ([row['total'] for row in found] for found in starts.values())
  ratios = [b / a for a, b in zip(first, second, strict=True)]
  print(f'second / first: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})')
  ratios = [b / a for a, b in zip(first, bare, strict=True)]
  print(f'without cache:  {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})')


if __name__ == '__main__':
  main(*sys.argv[1:])
