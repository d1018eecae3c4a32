"""MLP-Mixer in JAX and Flax: pre-train, fine-tune, evaluate, look inside."""

import importlib
import importlib.util
import os
import pathlib
import sys
from typing import TYPE_CHECKING

from mixer_jax.hardware import has_tpu

if TYPE_CHECKING:
  from mixer_jax.checkpoints import load, save
  from mixer_jax.checkpoints.published import released
  from mixer_jax.errors import UserError
  from mixer_jax.models import VARIANTS, MixerConfig, ResNetConfig, apply, features, init

__version__ = '0.1.0'

__all__ = [
  'VARIANTS',
  'MixerConfig',
  'ResNetConfig',
  'UserError',
  '__version__',
  'apply',
  'features',
  'init',
  'load',
  'released',
  'save',
]

_HOME = {
  'VARIANTS': 'mixer_jax.models',
  'MixerConfig': 'mixer_jax.models',
  'ResNetConfig': 'mixer_jax.models',
  'UserError': 'mixer_jax.errors',
  'apply': 'mixer_jax.models',
  'features': 'mixer_jax.models',
  'init': 'mixer_jax.models',
  'load': 'mixer_jax.checkpoints',
  'released': 'mixer_jax.checkpoints.published',
  'save': 'mixer_jax.checkpoints',
}


def __getattr__(name: str):
  """Public names are imported when first touched: `import mixer_jax` alone costs nothing."""
  if name not in _HOME:
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
  value = getattr(importlib.import_module(_HOME[name]), name)
  globals()[name] = value
  return value


def __dir__():
  return sorted(__all__)


def _settle_environment():
  """Defaults that must stand before JAX and etils are imported; what the user set, stays.

  Buckets go through gcsfs, not through TensorFlow, also where TensorFlow is
  installed. Where libtpu is installed but no TPU is present, JAX would ask it
  anyway and fill the screen with its complaints before taking the CPU.
  """
  os.environ.setdefault('EPATH_USE_TF', 'false')
  if os.environ.get('JAX_PLATFORMS') or importlib.util.find_spec('libtpu') is None:
    return
  if has_tpu() or os.environ.get('TPU_NAME') or os.environ.get('TPU_WORKER_HOSTNAMES'):
    return
  platforms = 'cuda,cpu' if pathlib.Path('/dev/nvidiactl').exists() else 'cpu'
  if 'jax' in sys.modules:
    sys.modules['jax'].config.update('jax_platforms', platforms)
  else:
    os.environ['JAX_PLATFORMS'] = platforms


_settle_environment()
