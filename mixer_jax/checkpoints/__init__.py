"""Params <-> files."""

from etils import epath

from mixer_jax.checkpoints import layouts
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig
from mixer_jax.models.mixer import with_zero_head
from mixer_jax.models.resolution import grow

__all__ = ['load', 'load_with_metadata']


def load(
  path, *, image_size: int | None = None, num_classes: int | None = None
) -> tuple[MixerConfig, dict]:
  """Model configuration and params (nested dict of float32 NumPy arrays) of a checkpoint.

  Args:
    path: a published `.npz` file, a workdir of this project (its newest state
      that verifies is taken) or one step's folder in it; local or `gs://…`.
    image_size: pixels, an integer multiple of the checkpoint's: the token MLPs are
      grown block-diagonally (section 3, Appendix C).
    num_classes: gives the model a new head, of zeros.

  Raises:
    UserError: there is no such checkpoint, it is damaged, or it cannot grow so.
  """
  config, params, _ = load_with_metadata(path)
  if image_size is not None:
    config, params = grow(config, params, image_size)
  if num_classes is not None:
    config, params = with_zero_head(config, params, num_classes)
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
