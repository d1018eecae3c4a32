"""Params <-> files."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from mixer_jax.checkpoints import layouts, published
from mixer_jax.checkpoints.containers import SUFFIXES
from mixer_jax.checkpoints.layouts import save
from mixer_jax.checkpoints.published import Released
from mixer_jax.errors import UserError
from mixer_jax.models import ModelConfig, config_from, variant_of, with_zero_head
from mixer_jax.models.depth import with_blocks
from mixer_jax.models.resolution import grow
from mixer_jax.paths import user_path

__all__ = ['Checkpoint', 'adapted', 'load', 'read', 'save', 'with_arithmetic']


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model from wherever, and what is known of it."""

  config: ModelConfig
  params: dict
  """Nested dict of float32 NumPy arrays under the published names."""
  layout: str
  """'modern', 'legacy', 'timm', or 'training state'."""
  file: str
  """Where it was read."""
  dtypes: tuple[str, ...] = ('float32',)
  """As stored."""
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
  """What the run stored beside its state; empty for a weights file."""
  published: Released | None = None
  """The table's entry, where it was loaded by its name."""


def load(
  path_or_name,
  *,
  image_size: int | None = None,
  num_classes: int | None = None,
  blocks: Sequence[int] | None = None,
  gelu: str = '',
  input_range: str = '',
) -> tuple[Any, dict]:
  """Model configuration and params (nested dict of float32 NumPy arrays) of a checkpoint.

  The configuration is a `MixerConfig`, or a `ResNetConfig` where the run trained such; of a
  weights file it is read off the arrays. GELU and input range are not in them: they are
  the run's for a state of this project, the table's for a published name, else 'tanh' and
  '[-1, 1]'.

  Args:
    path_or_name: a `.npz` or `.safetensors` weights file, a workdir of this project
      (its newest state that verifies is taken), `WORKDIR/best` where the run keeps that, or
      one step's folder, `WORKDIR/checkpoints/STEP`, local or `gs://…`; or a name in
      `mixer_jax.released`, which is downloaded once.
    image_size: pixels, an integer multiple of the checkpoint's: the token MLPs are
      grown block-diagonally (section 3, Appendix C).
    num_classes: gives the model a new head, of zeros.
    blocks: of a Mixer, numbers of the blocks that stay, ascending; the others are left out.
    gelu: 'tanh' or 'erf' (as timm computes), in place of what is known.
    input_range: '[-1, 1]' or '[0, 1]', likewise.

  Raises:
    UserError: there is no such checkpoint, it is damaged, it cannot grow so, or has no such blocks.
  """
  checkpoint = with_arithmetic(read(path_or_name), gelu, input_range)
  return adapted(checkpoint, image_size=image_size, num_classes=num_classes, blocks=blocks)


def with_arithmetic(checkpoint: Checkpoint, gelu: str = '', input_range: str = '') -> Checkpoint:
  """The checkpoint with another GELU or input range, where one is named."""
  chosen = {k: v for k, v in {'gelu': gelu, 'input_range': input_range}.items() if v}
  if gelu and not hasattr(checkpoint.config, 'gelu'):
    raise UserError(f'{checkpoint.file} is a {variant_of(checkpoint.config)}: it has no GELU')
  return dataclasses.replace(checkpoint, config=dataclasses.replace(checkpoint.config, **chosen))


def adapted(
  checkpoint: Checkpoint,
  *,
  image_size: int | None,
  num_classes: int | None,
  blocks: Sequence[int] | None,
) -> tuple[Any, dict]:
  """Its model with some of its blocks, grown to an image size, or under a new head; see `load`."""
  config, params = checkpoint.config, checkpoint.params
  if blocks is not None:
    config, params = with_blocks(config, params, blocks)
  if image_size is not None:
    config, params = grow(config, params, image_size)
  if num_classes is not None:
    config, params = with_zero_head(config, params, num_classes)
  return config, params


def read(path_or_name) -> Checkpoint:
  """As `load`, with all that is known of the checkpoint. A path that exists goes before a name."""
  text = str(path_or_name)
  path = None if text.startswith(('https://', 'http://')) else user_path(path_or_name)
  entry = published.find(text)
  if entry and ('://' in text or path is None or not path.exists()):
    file, weights = published.read(entry)
    return Checkpoint(
      weights.config, weights.params, weights.layout, str(file), weights.dtypes, published=entry
    )
  if path is None:
    raise UserError(f'{text} is none of the published files: download it, and name the file')
  if path.name == 'best' and not path.exists() and (path.parent / 'checkpoints').is_dir():
    from mixer_jax.checkpoints import store  # Orbax takes seconds to import

    path = store.best_state(path.parent)
  if not path.exists():
    kind = 'weights file' if path.suffix in SUFFIXES else 'checkpoint'
    raise UserError(
      f'no {kind} {text}: name a workdir, one of its steps, an .npz or .safetensors file, or a '
      f'published file (`mixer-jax models` lists them){published.near(text)}'
    )
  if not path.is_dir():
    weights = layouts.read(path)
    return Checkpoint(weights.config, weights.params, weights.layout, str(path), weights.dtypes)
  from mixer_jax.checkpoints import store

  metadata, params = store.read_params(path)
  config = config_from(metadata['model'])
  return Checkpoint(config, params, 'training state', str(path), metadata=metadata)
