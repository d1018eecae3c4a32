"""Transfer to the tasks of VTAB-1k and Avg 5: `configs/transfer.py:VARIANT[,SIZE]`.

VARIANT is one of Table 1, such as B/16; SIZE is 224, the pixels at which Table 3 has Avg 5, or 448
as in Table 2 (VTAB-1k's tasks have their own sizes). VARIANT `digits` is the Mixer of
configs/digits.py, at 16 px: minutes per task on a laptop's CPU. For `mixer-jax transfer`.
"""

from ml_collections import ConfigDict

from configs import common, digits, finetune
from mixer_jax import VARIANTS, UserError
from mixer_jax.data import tasks


def get_config(arg: str) -> ConfigDict:
  """Return an experiment for each task, the learning rates to try, and the number of seeds."""
  variant, _, size = arg.partition(',')
  sizes = ('', '224', '448') if variant in VARIANTS else ('',)
  if variant not in (*VARIANTS, 'digits') or size not in sizes:
    raise UserError(
      f'configs/transfer.py:{arg}: VARIANT is one of {", ".join(VARIANTS)}, and then SIZE 224 or '
      '448, as in L/16,448; or digits'
    )
  study = ConfigDict()
  study.seeds = 3  # reported runs per task
  study.learning_rates = ConfigDict()  # tried for each task of a suite
  study.learning_rates.vtab = common.values(0.003, 0.01, 0.03)
  study.learning_rates.avg5 = common.values(0.003, 0.01, 0.03, 0.06)
  study.keep_sweep = False  # keep the states of the runs that chose the rate
  study.tasks = ConfigDict()  # an experiment each, with the fields of configs/common.py
  for name in tasks.names():
    study.tasks[name] = _digits(name) if variant == 'digits' else _paper(variant, name, size)
  return study


def _paper(variant: str, name: str, size: str) -> ConfigDict:
  config = finetune.get_config(f'{variant},{name}')
  if size == '448' and name.startswith('avg5/'):
    config.model.image_size = 448
    config.data.eval_recipe = 'resize-crop'
  return config


def _digits(name: str) -> ConfigDict:
  """Return the experiment of a task at 16 px; the paper has 224."""
  config = common.finetune(digits.get_config())
  common.keep_architecture(config)
  finetune.to_task(config, tasks.find_task(name))
  config.total_steps = 200
  config.batch_size = 128
  config.optimizer.warmup_steps = 50
  config.data.threads = 2
  return config
