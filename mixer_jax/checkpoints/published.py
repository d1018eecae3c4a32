"""The published files of all families: a table, and how a name becomes a file on this machine."""

import dataclasses
import difflib
import logging
import os
import pathlib
import re
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from mixer_jax.checkpoints import layouts
from mixer_jax.checkpoints.download import UnreachableError, download, held
from mixer_jax.errors import StorageError, UserError
from mixer_jax.home import CACHE_SETTING, cache_folder, expanded
from mixer_jax.models import arithmetic, family, variant_of
from mixer_jax.models.files import PublishedFile

log = logging.getLogger(__name__)

MIRROR_SETTING = 'MIXER_JAX_MIRROR'
"""A folder, `gs://…` or `https://…` that has the files under their names here; used instead."""


@dataclasses.dataclass(frozen=True)
class Released:
  """One published file; the fields are those of `models.files.PublishedFile`."""

  name: str
  url: str
  config: Any
  """Sizes of its arrays, and its arithmetic, which the file does not hold."""
  mebibytes: float | None
  recipe: str = 'resmall-crop'
  crop_fraction: float = 0.875
  top1: float | None = None
  real: float | None = None
  note: str = ''
  pretrained_on: str | None = None
  training: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)

  @property
  def file(self) -> str:
    """Its path below the cache or a mirror: the full name, since many share the last part."""
    return self.name + pathlib.PurePosixPath(self.url).suffix

  @property
  def variant(self) -> str:
    """Such as 'B/16'."""
    return variant_of(self.config)

  @property
  def classes(self) -> str | None:
    """The TFDS data set whose classes the head has."""
    return 'imagenet2012' if self.config.num_classes == 1000 else None


def _released(module, file: PublishedFile) -> Released:
  fields = {field.name: getattr(file, field.name) for field in dataclasses.fields(file)}
  config = dataclasses.replace(module.VARIANTS[fields.pop('variant')], **fields.pop('fields'))
  return Released(config=config, **fields)


released: dict[str, Released]
"""Name -> published file, of all families; see `table`."""

_table: dict[str, Released] = {}
_included: set[str] = set()


def table() -> dict[str, Released]:
  """Name -> published file, of all families that are registered by now."""
  for name, module in family.load_all().items():
    if name not in _included:
      _included.add(name)
      files = getattr(module, 'PUBLISHED', ())
      _table.update((file.name, _released(module, file)) for file in files)
  return _table


def __getattr__(name: str):
  """Make `released` when it is first asked for: a family may import this module."""
  if name == 'released':
    return table()
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def of_family(module: ModuleType) -> list[Released]:
  """Return the files of one family."""
  return [entry for entry in table().values() if isinstance(entry.config, module.Config)]


def find(text: str) -> Released | None:
  """Return the entry that a user means by its name or address; None if there is none.

  Raises:
    UserError: a family knows the name, and that it cannot load such a file.
  """
  released = table()
  name = text.removesuffix('.npz').removeprefix('hf-hub:')
  for candidate in (name, f'timm/{name}', f'bit/{name}'):
    if candidate in released:
      return released[candidate]
  address = re.sub('^gs://', 'https://storage.googleapis.com/', name)
  for entry in released.values():
    if entry.url.removesuffix('.npz') == address:
      return entry
  for module in family.load_all().values():
    named = getattr(module, 'named_file', lambda name: None)
    if file := named(address):
      return _released(module, file)
  return None


def near(text: str) -> str:
  """Return the end of a message about an unknown name: names that it may mean."""
  released, last = table(), text.removesuffix('.npz').rpartition('/')[2]
  same = [name for name in released if name.rpartition('/')[2] == last]
  same += [name for name, entry in released.items() if entry.variant.lower() == text.lower()][:6]
  same = same or [name for name in released if last and last in name]
  same = same[:6]
  close = same or difflib.get_close_matches(text, released, n=3)
  return f'; did you mean {" or ".join(close)}?' if close else ''


def cached(entry: Released) -> pathlib.Path:
  """Path of the file once it is downloaded; raises `UserError` if there is no cache folder."""
  try:
    return cache_folder() / entry.file
  except FileNotFoundError as error:
    raise UserError(
      f'{entry.name} cannot be stored ({error.strerror}): name a folder with {CACHE_SETTING}'
    ) from error


def mirrored(entry: Released) -> pathlib.Path | None:
  """Path of the file if the mirror is a folder of this machine; None otherwise.

  Raises:
    UserError: the mirror is neither a folder nor an address.
  """
  mirror = os.environ.get(MIRROR_SETTING, '').removeprefix('file://')
  if not mirror or re.match('(https?|gs)://[^/]', mirror):
    return None
  folder = expanded(pathlib.Path(mirror))
  if '://' in mirror or not folder.is_dir():
    raise UserError(f'{MIRROR_SETTING}={mirror} is neither a folder nor gs://… nor https://…')
  return folder / entry.file


def read(entry: Released) -> tuple[pathlib.Path, layouts.WeightsFile]:
  """Return the path of a published file and its contents; download it if it is not cached.

  The config has the arithmetic of the table. A download is checked before it gets its name, so
  that no other file comes into the cache.

  Raises:
    UserError: it cannot be reached (the message says which file to put where), or it is not the
      file of this name.
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
        if not target.exists():  # another process may have downloaded it meanwhile
          _fetch(entry, url, target)
    except OSError as error:
      raise UserError(
        f'{entry.name} cannot be stored ({error.filename or target.parent}: {error.strerror}): try '
        f'again, or name another place with {CACHE_SETTING}'
      ) from error
  try:
    return target, _checked(entry, target)
  except StorageError:
    raise
  except UserError as error:
    raise UserError(f'{error}: remove it, and it is downloaded again') from error


def _fetch(entry: Released, url: str, target: pathlib.Path) -> None:
  log.info('downloading %s to %s', url, target)
  try:
    part = download(url, target, lambda length: _check_length(entry, url, length))
  except UnreachableError as error:
    kind = StorageError if error.may_pass else UserError
    raise kind(
      f'{entry.name} is out of reach ({error}): copy {url} to {target}, or name a folder that has '
      f'{entry.file} with {MIRROR_SETTING}'
    ) from error
  try:
    _checked(entry, part)
  except StorageError:
    raise
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


def _checked(entry: Released, path: pathlib.Path) -> layouts.WeightsFile:
  weights = layouts.read(path, dataclasses.asdict(entry.config))
  found = weights.config
  if type(found) is type(entry.config):
    own = {name: getattr(entry.config, name) for name in arithmetic(entry.config)}
    found = dataclasses.replace(found, **own)
  if found != entry.config:
    raise UserError(
      f'{path}: it is not {entry.name} but holds {_sizes(weights.config)}, '
      f'where {_sizes(entry.config)} are expected'
    )
  return dataclasses.replace(weights, config=found)


def _sizes(config) -> str:
  fields = family.of(config).SIZES.items()
  sizes = ', '.join(f'{letter}={getattr(config, field)}' for letter, field in fields)
  return f'{config.num_blocks} blocks of {sizes}'
