"""Transfer to the tasks of VTAB-1k and Avg 5: `configs/transfer.py:VARIANT[,SIZE]`.

VARIANT is a Mixer, such as B/16; SIZE is 224, the pixels at which Table 3 has Avg 5, or 448
as in Table 2 (VTAB-1k's tasks have their own sizes). Or it is a ViT, such as vit-B/16, and SIZE is
384 or 224, of all tasks; or a BiT, such as bit-R50x1, whose rule has the sizes. VARIANT `digits` is
the Mixer of configs/digits.py, at 16 px: minutes per task on a laptop's CPU. For `mixer-jax
transfer`.
"""

from typing import NamedTuple

from ml_collections import ConfigDict

from configs import common, digits, finetune
from mixer_jax import UserError, find_variant
from mixer_jax.data import tasks


class _Sweep(NamedTuple):
  """Sizes of the images, the first unless one is given, and learning rates that a paper tries."""

  sizes: tuple[str, ...]
  vtab: tuple[float, ...]
  avg5: tuple[float, ...]


_MIXER = _Sweep(('224', '448'), (0.003, 0.01, 0.03), (0.003, 0.01, 0.03, 0.06))
_OTHERS = {
  'digits': _MIXER._replace(sizes=()),
  # Table 4: .001 to .03, on ImageNet .003 to .06.
  'ViT': _Sweep(('384', '224'), (0.01,), (0.001, 0.003, 0.01, 0.03, 0.06)),
  'BiT': _Sweep((), (0.003,), (0.003,)),
}
"""Beginning of a variant's name -> what is not as for a Mixer."""


def get_config(arg: str) -> ConfigDict:
  """Return an experiment for each task, the learning rates to try, and the number of seeds."""
  text, _, size = arg.partition(',')
  variant = text if text == 'digits' else find_variant(text)[0]
  sweep = _OTHERS.get(variant.split('-')[0], _MIXER)
  if size not in ('', *sweep.sizes):
    raise UserError(
      f'configs/transfer.py:{arg}: {variant} has {"SIZE " if sweep.sizes else "no SIZE"}'
      f'{" or ".join(sweep.sizes)}; 224 or 448 of a Mixer, as in L/16,448, 384 or 224 of a ViT'
    )
  study = ConfigDict()
  study.seeds = 3  # reported runs per task
  study.learning_rates = ConfigDict()  # tried for each task of a suite
  study.learning_rates.vtab = common.values(*sweep.vtab)
  study.learning_rates.avg5 = common.values(*sweep.avg5)
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
  elif size and variant.startswith('ViT-'):
    config.model.image_size = int(size)
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
