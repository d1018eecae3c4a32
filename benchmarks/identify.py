"""Layer identification between all pairs of digits Mixers that differ in their seed only.

Usage: python benchmarks/identify.py WORKDIR [SEEDS] [NAME=VALUE…]   (4)

Trains configs/identify.py from SEEDS seeds into WORKDIR, unless that is done already (NAME=VALUE
are fields of the config), and runs `mixer-jax identify` for each pair and each kind of layer.
Writes benchmarks/results/identify_digits.json, and .png for seeds 0 and 1; prints a table.
"""

import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).parent.parent
RESULTS = ROOT / 'benchmarks' / 'results'
KINDS = (
  'block_*/token_mixing/norm',
  'block_*/token_mixing/residual',
  'block_*/channel_mixing/norm',
  'block_*',
)
"""Input and output of token mixing, input of the channel MLP, output of the block."""


def command(*arguments: str, folder: pathlib.Path = ROOT) -> None:
  """Run mixer-jax; its errors end this program."""
  subprocess.run([sys.executable, '-m', 'mixer_jax', *arguments], cwd=folder, check=True)


def identified(a: pathlib.Path, b: pathlib.Path, kind: str, kernel: str, output: str) -> dict:
  """Return the report of the command for one pair, in both directions."""
  report = f'{output}.json'
  command(
    'identify',
    f'--checkpoint={a.name}',
    f'--other={b.name}',
    f'--layers={kind}',
    f'--kernel={kernel}',
    f'--output={output}',
    f'--json={report}',
    folder=a.parent,  # so that the picture shows their names
  )
  return json.loads(pathlib.Path(report).read_text())


def main(workdir: str, seeds: str = '4', *fields: str) -> None:
  """Train, compare and write the results."""
  runs = [pathlib.Path(workdir).absolute() / f'seed{seed}' for seed in range(int(seeds))]
  for seed, run in enumerate(runs):
    more = [f'--config.{field}' for field in (f'seed={seed}', *fields)]
    command('train', '--config=configs/identify.py', f'--workdir={run}', *more)
  rows = []
  with tempfile.TemporaryDirectory() as folder:
    for kind, kernel in itertools.product(KINDS, ('linear', 'rbf')):
      for a, b in itertools.combinations(range(len(runs)), 2):
        output = f'{folder}/{a}{b}'
        report = identified(runs[a], runs[b], kind, kernel, output)
        ways = [report[key]['accuracy'] for key in ('identified', 'identified_back')]
        rows.append({'layers': kind, 'kernel': kernel, 'seeds': [a, b], 'accuracy': ways})
        if (kind, kernel, a, b) == (KINDS[0], 'linear', 0, 1):
          (RESULTS / 'identify_digits.png').write_bytes(pathlib.Path(f'{output}.png').read_bytes())
  text = json.dumps({'config': 'configs/identify.py', 'pairs': rows}, indent=1)
  (RESULTS / 'identify_digits.json').write_text(text + '\n')
  for kind, kernel in itertools.product(KINDS, ('linear', 'rbf')):
    found = [r['accuracy'] for r in rows if (r['layers'], r['kernel']) == (kind, kernel)]
    mean = statistics.mean(itertools.chain(*found))
    least = min(map(min, found))
    print(f'{kind:32} {kernel:7} mean {mean:5.1f} %, least {least:5.1f} %', found)


if __name__ == '__main__':
  main(*sys.argv[1:])
