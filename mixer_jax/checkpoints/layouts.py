"""Released weight files <-> params.

Known layout: the modern `.npz` of the authors, whose array names are the paths of
our params joined by `/`. The configuration is read off the arrays.
"""

import math
import zipfile
import zlib

import numpy as np
from etils import epath

from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models.mixer import flatten, shape_faults

__all__ = ['flatten', 'read_config', 'read_npz', 'unflatten']


def unflatten(arrays: dict[str, np.ndarray]) -> dict:
  """{'stem/kernel': a} -> {'stem': {'kernel': a}}."""
  params: dict = {}
  for name, array in arrays.items():
    *path, last = name.split('/')
    node = params
    for part in path:
      node = node.setdefault(part, {})
    node[last] = array
  return params


def read_npz(path) -> tuple[models.MixerConfig, dict]:
  """Configuration and params (float32, on the host) of a published `.npz` file.

  Nothing in the file is executed: pickled arrays are refused.

  Raises:
    UserError: not such a file, or arrays missing, superfluous or of the wrong
      shape: all of them are listed.
  """
  path = epath.Path(path)
  try:
    with path.open('rb') as file, np.load(file, allow_pickle=False) as archive:
      arrays = {name: archive[name] for name in archive.files}
  except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
    raise UserError(f'{path} is not a readable .npz weights file: {error}') from error
  except (
    AttributeError,
    TypeError,
  ) as error:  # np.load took a bare .npy, or text that looks like one
    raise UserError(f'{path} is not an .npz archive of named arrays') from error
  try:
    config = read_config(arrays)
    _check(config, arrays)
  except UserError as error:
    raise UserError(f'{path}: {error}') from error
  return config, unflatten({name: np.asarray(a, np.float32) for name, a in arrays.items()})


def read_config(arrays: dict[str, np.ndarray]) -> models.MixerConfig:
  """The Mixer that these named arrays are the weights of (GELU is not in them: tanh)."""

  def shape(name, rank):
    if name not in arrays or arrays[name].ndim != rank:
      raise UserError(f'no array {name} of rank {rank}: these are not the weights of a Mixer')
    return arrays[name].shape

  patch_size, _, _, hidden_dim = shape('stem/kernel', 4)
  num_tokens, tokens_mlp_dim = shape('MixerBlock_0/token_mixing/Dense_0/kernel', 2)
  _, channels_mlp_dim = shape('MixerBlock_0/channel_mixing/Dense_0/kernel', 2)
  side = math.isqrt(num_tokens)
  if side**2 != num_tokens:
    raise UserError(f'{num_tokens} tokens do not fill a square image')
  blocks = {name.split('/')[0] for name in arrays if name.startswith('MixerBlock_')}
  return models.MixerConfig(
    patch_size=patch_size,
    num_blocks=len(blocks),
    hidden_dim=hidden_dim,
    tokens_mlp_dim=tokens_mlp_dim,
    channels_mlp_dim=channels_mlp_dim,
    image_size=patch_size * side,
    num_classes=shape('head/kernel', 2)[1],
  )


def _check(config: models.MixerConfig, arrays: dict[str, np.ndarray]):
  faults = shape_faults(config, {name: array.shape for name, array in arrays.items()})
  for name, array in arrays.items():
    if array.dtype.kind != 'f':
      faults.append(f'{name} holds {array.dtype}, expected floats')
    elif not np.isfinite(array).all():
      faults.append(f'{name} is not finite')
  if faults:
    raise UserError('; '.join(faults))
