"""A weights file, a training state or the name of a published file -> a model and its params."""

import dataclasses
import functools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath

from mixer_jax import storage
from mixer_jax.checkpoints import layouts, published
from mixer_jax.checkpoints.containers import SUFFIXES
from mixer_jax.checkpoints.published import Released
from mixer_jax.errors import UserError
from mixer_jax.models import Weights, config_from, dispatch, split, variant_of, with_zero_head
from mixer_jax.models.depth import with_blocks
from mixer_jax.models.resolution import grow
from mixer_jax.parallel import platforms
from mixer_jax.paths import user_path

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
  """A model, and what is known about where it is from."""

  config: Any
  params: Weights
  """Nested dict of float32 NumPy arrays under the published names; `models.Variables` of a family
  with model state."""
  layout: str
  """'training state', or the layout of a weights file: 'modern', 'legacy', 'timm'."""
  file: str
  """Path that it was read from."""
  dtypes: tuple[str, ...] = ('float32',)
  """Dtypes in the file."""
  metadata: dict[str, Any] = dataclasses.field(default_factory=dict)
  """Metadata that the run stored with its state; empty for a weights file."""
  published: Released | None = None
  """The table's entry, if it was loaded by its name."""

  @property
  def is_assumed(self) -> bool:
    """True if its arithmetic is only what most files take: a weights file does not hold it."""
    return not self.metadata and not self.published

  @property
  def has_zero_head(self) -> bool:
    """True if all images have the same logits, as the head of some published files has it."""
    return not split(self.params)[0]['head']['kernel'].any()


def load(
  path_or_name,
  *,
  image_size: int | None = None,
  num_classes: int | None = None,
  blocks: Sequence[int] | None = None,
  gelu: str = '',
  input_range: str = '',
  num_heads: int | None = None,
) -> tuple[Any, Weights]:
  """Return the config and params (nested dict of float32 NumPy arrays) of a checkpoint.

  The config is that of the family which the run trained; for a weights file, family and sizes are
  read from the arrays. GELU and input range are not in them: they are the run's for a state of
  this project, the table's for a published name, else 'tanh' and '[-1, 1]'. For a family with
  model state, `models.Variables` is in the place of the params.

  Args:
    path_or_name: a `.npz` or `.safetensors` weights file; a workdir of this project, local or
      `gs://…`, which means its best state if the run keeps that, else its newest, or one state of
      it: `WORKDIR/best`, `WORKDIR/newest` or `WORKDIR/STEP`; or a name in `mixer_jax.released`,
      which is downloaded once.
    image_size: pixels; for a Mixer an integer multiple of the checkpoint's: the token MLPs are
      grown block-diagonally (section 3, Appendix C). For a ViT any multiple of the patch: its
      learned positions are resized as the authors do. A ResNet takes any size.
    num_classes: gives the model a new head, of zeros.
    blocks: numbers of the blocks of a Mixer or ViT to keep, ascending; the others are left out.
    gelu: 'tanh' or 'erf' (as timm computes), in place of what is known.
    input_range: '[-1, 1]' or '[0, 1]', likewise.
    num_heads: attention heads of a ViT in a file that does not store them, as timm's.

  Raises:
    UserError: there is no such checkpoint, it is damaged, it cannot be changed so, or it has
      another number of heads.
  """
  checkpoint = read(path_or_name, num_heads=num_heads, image_size=image_size)
  checkpoint = with_arithmetic(checkpoint, gelu, input_range)
  return adapted(checkpoint, image_size=image_size, num_classes=num_classes, blocks=blocks)


def with_arithmetic(checkpoint: Checkpoint, gelu: str = '', input_range: str = '') -> Checkpoint:
  """Return the checkpoint with another GELU or input range, where one is named.

  Raises:
    UserError: its model has none.
  """
  chosen = {k: v for k, v in {'gelu': gelu, 'input_range': input_range}.items() if v}
  try:
    config = dispatch.with_arithmetic(checkpoint.config, **chosen)
  except UserError as error:
    raise UserError(f'{checkpoint.file}: {error}') from error
  return dataclasses.replace(checkpoint, config=config)


def adapted(
  checkpoint: Checkpoint,
  *,
  image_size: int | None,
  num_classes: int | None,
  blocks: Sequence[int] | None,
) -> tuple[Any, Weights]:
  """Return its model with some of the blocks, another image size, or a new head; see `load`."""
  config, params = checkpoint.config, checkpoint.params
  if blocks is not None:
    config, params = with_blocks(config, params, blocks)
  if image_size is not None:
    config, params = grow(config, params, image_size)
  if num_classes is not None:
    config, params = with_zero_head(config, params, num_classes)
  return config, params


def read(
  path_or_name, *, num_heads: int | None = None, image_size: int | None = None
) -> Checkpoint:
  """Read what `load` does, with all that is known. A path that exists is preferred to a name.

  Args:
    path_or_name: as for `load`.
    num_heads: likewise.
    image_size: of a model whose arrays do not determine it; others keep theirs.

  Raises:
    UserError: there is no such checkpoint, it is damaged, or it has another number of heads.
  """
  checkpoint = read_knowing(path_or_name, num_heads=num_heads, image_size=image_size)
  found = getattr(checkpoint.config, 'num_heads', None)
  if num_heads is not None and num_heads != found:
    model = variant_of(checkpoint.config)
    count = 'no heads' if found is None else f'{found} heads'
    raise UserError(f'{checkpoint.file}: a {model} with {count}, not num_heads={num_heads!r}')
  return checkpoint


def read_knowing(path_or_name, **known: Any) -> Checkpoint:
  """Read a checkpoint; `known` fields count where its file does not store them; None is ignored."""
  return _read(path_or_name, {k: v for k, v in known.items() if v is not None})


def _read(path_or_name, known: Mapping[str, Any]) -> Checkpoint:
  text = str(path_or_name)
  path = None if text.startswith(('https://', 'http://')) else user_path(path_or_name)
  entry = published.find(text)
  if entry and ('://' in text or path is None or not storage.exists(path)):
    file, weights = published.read(entry)
    return Checkpoint(
      weights.config, weights.params, weights.layout, str(file), weights.dtypes, published=entry
    )
  if path is None:
    raise UserError(f'{text} is none of the published files: download it, and name the file')
  path, newest = _state_of_run(path)
  if not storage.exists(path):
    kind = 'weights file' if path.suffix in SUFFIXES else 'checkpoint'
    raise UserError(
      f'no {kind} {text}: name a workdir, one of its steps, an .npz or .safetensors file, or a '
      f'published file (`mixer-jax models` lists them){published.near(text)}'
    )
  if not path.is_dir():
    weights = layouts.read(path, known)
    return Checkpoint(weights.config, weights.params, weights.layout, str(path), weights.dtypes)
  from mixer_jax.checkpoints import run_states

  platforms.check()  # Orbax's error would look like a damaged state
  state = run_states.read_params(path, newest=newest)
  step = state.metadata['step']
  if state.metadata.get('best_step') == step and not newest and not run_states.is_state(path):
    _log_once(f'{path}: step {step}, its best state; {path}/newest is its newest')
  config = config_from(state.metadata['model'])
  return Checkpoint(
    config, state.weights, 'training state', str(state.path), metadata=state.metadata
  )


def _state_of_run(path: epath.Path) -> tuple[epath.Path, bool]:
  """Return what WORKDIR/best, WORKDIR/STEP and WORKDIR/newest mean; the last as (WORKDIR, True)."""
  name, states = path.name, path.parent / 'checkpoints'
  is_of_run = name in ('best', 'newest') or name.isdecimal()
  if not is_of_run or path.exists() or not states.is_dir():
    return path, False
  if name == 'newest':
    return path.parent, True
  if name.isdecimal():
    return states / name, False
  from mixer_jax.checkpoints import run_states  # Orbax takes seconds to import

  return run_states.best_state(path.parent), False


@functools.cache
def _log_once(line: str) -> None:  # the runs of a study begin with the same checkpoint
  log.info('%s', line)
