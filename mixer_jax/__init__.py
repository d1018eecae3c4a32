"""MLP-Mixer, ViT and BiT in JAX and Flax: pre-train, fine-tune, evaluate and analyse.

Everything that a command does can be called from Python; the public names are in `__all__`.
"""

import importlib
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
  from mixer_jax.api import load_config
  from mixer_jax.bench.suite import run as benchmark
  from mixer_jax.checkpoints import load, save
  from mixer_jax.checkpoints.published import released
  from mixer_jax.errors import UserError
  from mixer_jax.models import (
    VARIANTS,
    MixerConfig,
    ResNetConfig,
    ViTConfig,
    apply,
    features,
    find_variant,
    init,
  )
  from mixer_jax.models import register as register_family
  from mixer_jax.planning.plan import plan
  from mixer_jax.runs.attention import measure_attention
  from mixer_jax.runs.evaluation import evaluate
  from mixer_jax.runs.loaded_model import load_for_evaluation
  from mixer_jax.runs.predictions import embed, predict
  from mixer_jax.runs.run_config import RunConfig
  from mixer_jax.runs.similarity import compare
  from mixer_jax.runs.training_run import train
  from mixer_jax.studies.run import run_study

__version__ = '0.1.0'

__all__ = [
  'VARIANTS',
  'MixerConfig',
  'ResNetConfig',
  'RunConfig',
  'UserError',
  'ViTConfig',
  '__version__',
  'apply',
  'benchmark',
  'compare',
  'embed',
  'evaluate',
  'features',
  'find_variant',
  'init',
  'load',
  'load_config',
  'load_for_evaluation',
  'measure_attention',
  'plan',
  'predict',
  'register_family',
  'released',
  'run_study',
  'save',
  'train',
]

# Public name -> where it is defined: a module, or module:name where the name is another one there.
_HOMES = {
  'VARIANTS': 'mixer_jax.models',
  'MixerConfig': 'mixer_jax.models',
  'ResNetConfig': 'mixer_jax.models',
  'RunConfig': 'mixer_jax.runs.run_config',
  'UserError': 'mixer_jax.errors',
  'ViTConfig': 'mixer_jax.models',
  'apply': 'mixer_jax.models',
  # Not `bench`: that is the package mixer_jax.bench.
  'benchmark': 'mixer_jax.bench.suite:run',
  'compare': 'mixer_jax.runs.similarity',
  'embed': 'mixer_jax.runs.predictions',
  'evaluate': 'mixer_jax.runs.evaluation',
  'features': 'mixer_jax.models',
  'find_variant': 'mixer_jax.models',
  'init': 'mixer_jax.models',
  'load': 'mixer_jax.checkpoints',
  'load_config': 'mixer_jax.api',
  'load_for_evaluation': 'mixer_jax.runs.loaded_model',
  'measure_attention': 'mixer_jax.runs.attention',
  'plan': 'mixer_jax.planning.plan',
  'predict': 'mixer_jax.runs.predictions',
  'register_family': 'mixer_jax.models:register',
  'released': 'mixer_jax.checkpoints.published',
  'run_study': 'mixer_jax.studies.run',
  'save': 'mixer_jax.checkpoints',
  'train': 'mixer_jax.runs.training_run',
}


def __getattr__(name: str):
  """Import a public name on first use, so that `import mixer_jax` alone is cheap."""
  if name not in _HOMES:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  module, _, attribute = _HOMES[name].partition(':')
  value = getattr(importlib.import_module(module), attribute or name)
  globals()[name] = value
  return value


def __dir__():
  return sorted(__all__)


# etils opens buckets (for this package, Orbax and TFDS) with TensorFlow if that is installed, and
# reads this variable at the first such path. Importing any part of the package therefore sets the
# default; a value that is set already is kept.
os.environ.setdefault('EPATH_USE_TF', 'false')
