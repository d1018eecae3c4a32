"""Params <-> files."""

from etils import epath

from mixer_jax.checkpoints import layouts
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig

__all__ = ['load', 'load_with_metadata']


def load(path) -> tuple[MixerConfig, dict]:
  """Model configuration and params (nested dict of float32 NumPy arrays) of a checkpoint.

  Args:
    path: a published `.npz` file, a workdir of this project (its newest state
      that verifies is taken) or one step's folder in it; local or `gs://…`.

  Raises:
    UserError: there is no such checkpoint, or it is damaged.
  """
  config, params, _ = load_with_metadata(path)
  return config, params


def load_with_metadata(path) -> tuple[MixerConfig, dict, dict]:
  """As `load`, and what the run stored beside the state (empty for a weights file)."""
  path = epath.Path(path)
  if path.suffix == '.npz':
    if not path.exists():
      raise UserError(f'no weights file {path}')
    return *layouts.read_npz(path), {}
  if not path.is_dir():
    raise UserError(f'no checkpoint {path}: name a workdir, one of its steps, or an .npz file')
  from mixer_jax.checkpoints import store  # Orbax takes seconds to import

  metadata, params = store.read_params(path)
  return MixerConfig(**metadata['model']), params, metadata
