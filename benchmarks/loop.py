"""A run of `mixer-jax train` with its own input, compared with its step alone and its input alone.

Usage: python benchmarks/loop.py [CONFIG] [ROUNDS] [--config.FIELD=VALUE…]   (configs/digits.py 7)

The rate of the run comes from its metrics.jsonl, rows after step 100. Then the step, on one batch
on the device, and the input take turns within each round; medians. `mixer-jax bench --what=loop`
is the same loop with an input that costs nothing.
"""

import itertools
import statistics
import subprocess
import sys
import tempfile

import jax

from mixer_jax import models
from mixer_jax.bench import measure
from mixer_jax.data import pipeline
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.evaluation_setup import this_process
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training import step as steps

STEPS = 100  # per round


def trained(config: str, flags: list[str]) -> float:
  """Train, and return the images/s of the run from its log."""
  with tempfile.TemporaryDirectory() as workdir:
    command = [sys.executable, '-m', 'mixer_jax', 'train', f'--config={config}', *flags]
    subprocess.run([*command, f'--workdir={workdir}'], check=True, stdout=subprocess.DEVNULL)
    rows = [row for row in read_metrics(workdir) if 'event' not in row and row['step'] > 100]
  return statistics.median(row['images_per_second'] for row in rows)


def main(config: str = 'configs/digits.py', rounds: str = '7', *flags: str) -> None:
  """Measure the run, the step and the input, and print them."""
  fields = RunConfig.from_fields(load_config(config, flags))
  run = trained(config, list(flags))
  built = build_experiment(fields)
  mesh, size = built.evaluated.mesh, fields.batch_size
  params = models.init(built.model, jax.random.key(0))
  state = steps.state_from_params(params, built.optimizer, mesh)
  step = steps.make_train_step(
    built.model, built.optimizer, built.schedule, mesh, loss=fields.loss, mixup=fields.mixup
  )
  begin = lambda: pipeline.train_batches(
    built.source,
    built.evaluated.data,
    seed=0,
    image_size=built.model.image_size,
    batch_size=size,
    process=this_process(mesh),
  )
  batch = meshes.put(mesh, next(begin()))
  held = [state]

  def compute():
    for _ in range(STEPS):
      held[0], metrics = step(held[0], batch)
    jax.block_until_ready(metrics)

  def read():
    for _ in itertools.islice(begin(), STEPS):
      pass

  seconds = measure.interleaved({'step': compute, 'input': read}, int(rounds))
  alone = {name: STEPS * size / statistics.median(found) for name, found in seconds.items()}
  in_sequence = STEPS * size / statistics.median(map(sum, zip(*seconds.values(), strict=True)))
  print(f'{config}: {run:,.0f} images/s, {100 * run / alone["step"]:.0f} % of the step alone')
  print(
    f'step alone {alone["step"]:,.0f}, input alone {alone["input"]:,.0f}, one after the other '
    f'{in_sequence:,.0f} images/s'
  )


if __name__ == '__main__':
  main(*sys.argv[1:])
