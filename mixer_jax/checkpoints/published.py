"""The published Mixer files: a table, and how a name becomes a file on this machine.

Sizes, classes and accuracies are those of the paper (Tables 2 and 3), of the authors'
repository, and of timm's own results table.
"""

import dataclasses
import difflib
import logging
import os
import pathlib
import re

from mixer_jax.checkpoints import layouts
from mixer_jax.checkpoints.download import UnreachableError, download, held
from mixer_jax.errors import UserError
from mixer_jax.models import VARIANTS, MixerConfig, parameters, variant_of
from mixer_jax.paths import CACHE_SETTING, cache_folder

log = logging.getLogger(__name__)

MIRROR_SETTING = 'MIXER_JAX_MIRROR'
"""A folder, `gs://…` or `https://…`, that has the files under their names here; asked instead."""


@dataclasses.dataclass(frozen=True)
class Released:
  """One published file."""

  name: str
  """Such as 'imagenet1k/Mixer-B_16'."""
  url: str
  config: MixerConfig
  """What the arrays must be, and what they do not tell: GELU and input range."""
  mebibytes: float | None
  """To two decimals; None where no text tells it."""
  recipe: str = 'resmall-crop'
  """The evaluation recipe that belongs to it."""
  top1: float | None = None
  """Published ImageNet validation accuracy at 224 px, percent."""
  real: float | None = None
  """Published ImageNet ReaL accuracy, percent."""
  note: str = ''

  @property
  def file(self) -> str:
    """Its place below the cache or a mirror: the whole name, for many share the last part."""
    return self.name + pathlib.PurePosixPath(self.url).suffix

  @property
  def variant(self) -> str:
    """Such as 'B/16'."""
    return variant_of(self.config)

  @property
  def classes(self) -> str | None:
    """The TFDS data set whose classes the head has."""
    return 'imagenet2012' if self.config.num_classes == 1000 else None

  @property
  def pretrained_on(self) -> str | None:
    """What the paper's own Mixers were pre-trained on; None: it is another's.

    Those of sam/, gsam/ and miil were trained otherwise than the paper's.
    """
    if not self.name.startswith(('imagenet1k/', 'imagenet21k/', 'timm/')) or 'miil' in self.name:
      return None
    return self.classes or 'imagenet21k'


_BUCKET = 'https://storage.googleapis.com/mixer_models'
_HUB = 'https://huggingface.co/timm'
_21K = '{} on ImageNet only after fine-tuning, which was never published'


def _authors(name: str, mebibytes: float, num_classes: int = 1000, **more) -> Released:
  variant = VARIANTS[name.rpartition('-')[2].replace('_', '/')]
  config = dataclasses.replace(variant, num_classes=num_classes)
  return Released(name, f'{_BUCKET}/{name}.npz', config, mebibytes, **more)


def _hub(name: str, num_classes: int, *, recipe: str = 'timm', **more) -> Released:
  config = dataclasses.replace(VARIANTS[f'{name[6].upper()}/16'], num_classes=num_classes)
  if 'miil' in name:
    config = dataclasses.replace(config, gelu='erf', input_range='[0, 1]')
    recipe = 'timm-bilinear'
  url = f'{_HUB}/{name}/resolve/main/model.safetensors'
  return Released(f'timm/{name}', url, config, None, recipe, **more)


_ALL = (
  _authors('imagenet1k/Mixer-B_16', 228.47, top1=76.44, real=82.36),
  _authors('imagenet1k/Mixer-L_16', 794.29, top1=71.76, real=77.08),
  _authors('imagenet21k/Mixer-B_16', 289.61, 21_843, note=_21K.format('80.64')),
  _authors('imagenet21k/Mixer-L_16', 875.78, 21_843, note=_21K.format('82.89')),
  _authors('sam/Mixer-B_16', 228.47, top1=77.4),
  _authors('sam/Mixer-B_32', 230.04),
  _authors('gsam/Mixer-B_16', 228.47),
  _authors('gsam/Mixer-B_32', 230.04),
  _authors('gsam/Mixer-S_16', 70.71),
  _authors('gsam/Mixer-S_32', 72.91),
  _authors('gsam/Mixer-S_8', 78.79),
  _hub(
    'mixer_b16_224.goog_in21k_ft_in1k',
    1000,
    top1=76.616,
    note='is imagenet1k/Mixer-B_16; figure by exact GELU',
  ),
  _hub(
    'mixer_l16_224.goog_in21k_ft_in1k',
    1000,
    top1=72.084,
    note='is imagenet1k/Mixer-L_16; figure by exact GELU',
  ),
  _hub('mixer_b16_224.goog_in21k', 21_843, note=_21K.format('80.64')),
  _hub('mixer_l16_224.goog_in21k', 21_843, note=_21K.format('82.89')),
  _hub('mixer_b16_224.miil_in21k', 11_221, note='takes [0, 1], exact GELU'),
  _hub('mixer_b16_224.miil_in21k_ft_in1k', 1000, top1=82.314, note='takes [0, 1], exact GELU'),
)
released = {entry.name: entry for entry in _ALL}
"""Name -> published file."""


def find(text: str) -> Released | None:
  """The entry that a user means by its name or address; None where it is none of them."""
  name = text.removeprefix('gs://mixer_models/').removeprefix(f'{_BUCKET}/').removesuffix('.npz')
  for candidate in (name, f'timm/{name}', name.removeprefix('hf-hub:')):
    if candidate in released:
      return released[candidate]
  return next((entry for entry in _ALL if entry.url == text), None)


def near(text: str) -> str:
  """What to say to a name that is no file: whose it may be."""
  last = text.removesuffix('.npz').rpartition('/')[2]
  same = [name for name in released if name.rpartition('/')[2] == last]
  same += [name for name, entry in released.items() if entry.variant == text.upper()]
  same = same or [name for name in released if last and last in name]
  close = same or difflib.get_close_matches(text, released, n=3)
  return f'; did you mean {" or ".join(close)}?' if close else ''


def cached(entry: Released) -> pathlib.Path:
  """Where the file is when it was downloaded."""
  return cache_folder() / entry.file


def mirrored(entry: Released) -> pathlib.Path | None:
  """Where the file is to be if the mirror is a folder of this machine.

  Raises:
    UserError: the mirror is no folder and no address.
  """
  mirror = os.environ.get(MIRROR_SETTING, '').removeprefix('file://')
  if not mirror or re.match('(https?|gs)://[^/]', mirror):
    return None
  folder = pathlib.Path(mirror).expanduser()
  if '://' in mirror or not folder.is_dir():
    raise UserError(f'{MIRROR_SETTING}={mirror} is neither a folder nor gs://… nor https://…')
  return folder / entry.file


def read(entry: Released) -> tuple[pathlib.Path, layouts.Weights]:
  """Where a published file is, and its weights; downloads it to the cache when it is not there.

  The configuration has the GELU and input range of the table. What was downloaded
  is looked at before it gets its name: a file that is not what it should be never
  comes into the cache.

  Raises:
    UserError: out of reach (it says which file to put where), or not the file of
      this name.
  """
  own = mirrored(entry)
  if own:
    if not own.exists():
      raise UserError(
        f'{entry.name}: the mirror has no {own}: put the file from {entry.url} there, or unset '
        f'{MIRROR_SETTING}'
      )
    return own, _checked(entry, own)
  mirror, target = os.environ.get(MIRROR_SETTING, ''), cached(entry)
  if not target.exists():
    url = f'{mirror.rstrip("/")}/{entry.file}' if mirror else entry.url
    try:
      with held(target):
        if not target.exists():  # while we waited, another process may have brought it
          _fetch(entry, url, target)
    except OSError as error:
      raise UserError(
        f'{entry.name} cannot be kept ({error.filename or target.parent}: {error.strerror}): try '
        f'again, or name another place with {CACHE_SETTING}'
      ) from error
  try:
    return target, _checked(entry, target)
  except UserError as error:
    raise UserError(f'{error}: remove it, and it is downloaded anew') from error


def _fetch(entry: Released, url: str, target: pathlib.Path) -> None:
  log.info('downloading %s to %s', url, target)
  try:
    part = download(url, target, lambda length: _check_length(entry, url, length))
  except UnreachableError as error:
    raise UserError(
      f'{entry.name} is out of reach ({error}): bring {url} to {target}, or name a folder that has '
      f'{entry.file} with {MIRROR_SETTING}'
    ) from error
  try:
    _checked(entry, part)
  except UserError as error:
    part.unlink()
    reason = str(error).removeprefix(str(part)).strip(': ')
    raise UserError(
      f'what came from {url} is not {entry.name} ({reason}): try again, or take another mirror'
    ) from error
  part.replace(target)
  target.with_name(f'.lock-{target.name}').unlink(missing_ok=True)


def _check_length(entry: Released, url: str, length: int) -> None:
  found = length / 2**20
  if entry.mebibytes is not None and abs(found - entry.mebibytes) > 0.006:
    raise UserError(f'{entry.name} has {entry.mebibytes:.2f} MiB, and what is at {url} {found:.2f}')


def _checked(entry: Released, path: pathlib.Path) -> layouts.Weights:
  weights = layouts.read(path)
  same = dataclasses.replace(
    weights.config, gelu=entry.config.gelu, input_range=entry.config.input_range
  )
  if same != entry.config:
    raise UserError(
      f'{path}: it is not {entry.name} but holds {_told(weights.config)}, '
      f'where {_told(entry.config)} are expected'
    )
  return dataclasses.replace(weights, config=same)


def _told(config: MixerConfig) -> str:
  sizes = ', '.join(f'{k}={v}' for k, v in parameters.sizes(config).items())
  return f'{config.num_blocks} blocks of {sizes}'
