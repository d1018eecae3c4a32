"""A small run of the train command, in this process or in a process of its own."""

import os
import pathlib
import subprocess
import sys

from mixer_jax.__main__ import main

ROOT = pathlib.Path(__file__).parent.parent.parent

SMALL_FIELDS = {
  'total_steps': 6,
  'batch_size': 16,
  'eval_batch_size': 64,
  'log_every': 2,
  'eval_every': 3,
  'checkpoint_every': 3,
  'optimizer.warmup_steps': 2,
  'model.num_blocks': 1,
  'model.hidden_dim': 16,
}
"""Changes to configs/digits.py that make a run of a second; the model's are for it alone."""

SMALL = tuple(
  f'--config.{name}={value}'
  for name, value in SMALL_FIELDS.items()
  if not name.startswith('model.')
)
TINY_MODEL = tuple(
  f'--config.{name}={value}' for name, value in SMALL_FIELDS.items() if name.startswith('model.')
)

FAMILIES = {
  'vit': ('configs/digits_vit.py', {'model.hidden_dim': 16, 'model.dropout': 0.1}),
  'resnet': ('configs/digits_bit.py', {'model.width': 0.125}),
}
"""Family -> (config file, changes that make the model small)."""


def family_flags(family: str) -> list[str]:
  """Return the changes of a family's small run as flags."""
  return [f'--config.{name}={value}' for name, value in FAMILIES[family][1].items()]


def flags(workdir, data_dir, *more: str, config: str = 'configs/digits.py') -> list[str]:
  """Return the arguments of a small run; later flags win."""
  model = TINY_MODEL if config == 'configs/digits.py' else ()
  where = (f'--config={config}', f'--workdir={workdir}', f'--config.data.data_dir={data_dir}')
  return ['train', *where, *SMALL, *model, *more]


def train(workdir, data_dir, *more: str, **kwargs) -> int:
  """Return the exit code of a small run in this process, on its eight devices."""
  return main(flags(workdir, data_dir, *more, **kwargs))


def start(workdir, data_dir, *more: str, cache=None, **kwargs) -> subprocess.Popen:
  """Start a small run in a process of its own, on two devices."""
  environment = {**os.environ, 'XLA_FLAGS': '--xla_force_host_platform_device_count=2'}
  if cache is not None:
    environment['JAX_COMPILATION_CACHE_DIR'] = str(cache)
    environment['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'
  return subprocess.Popen(
    [sys.executable, '-m', 'mixer_jax', *flags(workdir, data_dir, *more, **kwargs)],
    env=environment,
    stdin=subprocess.DEVNULL,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
