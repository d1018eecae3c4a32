"""The registry of model families, and the interface of a family's module.

A family is one module and one row in `FAMILIES`, or one call of `register`. An installed package
can add a family without a call, by an entry point:

    [project.entry-points.'mixer_jax.families']
    cnn = 'my_package.cnn'

The module defines

    NAME         what people call it, such as 'Mixer'
    Config       a frozen dataclass of the model's fields, checked by `models.validation.check`. All
                 have `family` (the name in the registry), `image_size`, `num_classes`,
                 `input_range`, `dtype` and `head_bias`; with repeated blocks also `num_blocks`
    PARAMETERS   the table of its parameters (`models.parameters`); those of the classification
                 head are called `head/kernel` and `head/bias`
    SIZES        letter of the table -> field or property of the config
    SPLIT        letter of the table -> axis of the device mesh that splits it: 'model' or 'fsdp'
    ARCHITECTURE the fields that the weights decide, except `image_size` and `num_classes`
    run          (config, params, images, *, state, train, key) -> (features, new state). Images are
                 floats in the input range. `features` is an ordered dict with `pre_logits`
                 (B, C) and `logits` (B, N), float32; with repeated blocks also `block_0`, … and
                 right before the features of the first what it is given. `state` is returned as
                 it was given where nothing changes it

and may define

    STATE        a table like PARAMETERS of arrays that training updates without a gradient, such
                 as the statistics of BatchNorm
    OPTIONAL     those letters of SIZES, as one text, whose size may be 0 (the model then has no
                 parameter with such an axis), or that a weights file may not store
    SUMMARY      the fields and properties that describe a model in words; else ARCHITECTURE
    ARITHMETIC   fields that change the result and that no weights file holds; else `input_range`
    VARIANTS     name -> Config
    COLUMNS      heading -> field or property, for the table of VARIANTS
    block_sizes  (config, number of a block) -> sizes of letters that belong to this block
    is_stochastic, activation, variant_of, base_variant: functions of the config; see
                 `models.dispatch`

and what only some families can do, its capabilities (so such a name must not be imported into the
module for another use):

    grow         (config, params, image_size) -> (config, params) for another image size
    without_head (config, params) -> (config, params) without the layers that a new head replaces,
                 except `head` itself
    keep_blocks  (config, params, blocks) -> (config, params) with some of the blocks
    stem_kernel  (config, params) -> the kernel of its first convolution, (P, P, 3, C)
    token_mixing (config, params, block) -> the kernel (S, T) that mixes tokens
    position_embeddings (config, params) -> that of each patch, (G, G, C), G patches per side
    attention_weights (config, features, block) -> (B, heads, S, S) float32, of each query's keys.
                 The G² patches are the last tokens, in raster order; others, such as a class
                 token, are fewer than 2G + 1; traceable
    match_permutation (config, params, patches, within) -> params for permuted images
    LAYOUTS      tuple of `models.files.Layout`: its weights files; with `from_file`
                 (`models.files.Found`) -> Config, and `places` (config) -> [(stage, place)] of
                 each block where a layout numbers them so
    PUBLISHED    tuple of `models.files.PublishedFile`
    named_file   (name or address) -> PublishedFile or None, where there are too many for a tuple
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import inspect
import logging
import pathlib
from collections.abc import Iterable, Iterator, Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol

from mixer_jax.errors import UserError, one_line
from mixer_jax.models import parameters

log = logging.getLogger(__name__)


class ModelConfig(Protocol):
  """Fields that the configs of all families have; each is a frozen dataclass."""

  __dataclass_fields__: ClassVar[dict[str, Any]]

  @property
  def family(self) -> str:
    """Name in the registry."""
    ...

  @property
  def image_size(self) -> int:
    """Side of the square input image, pixels."""
    ...

  @property
  def num_classes(self) -> int:
    """Outputs of the classification head."""
    ...

  @property
  def input_range(self) -> str:
    """Range that the pixels' 0..255 is mapped to; see `models.inputs`."""
    ...

  @property
  def dtype(self) -> str:
    """Dtype of activations and matrix multiplies."""
    ...

  @property
  def head_bias(self) -> float:
    """Initial value of the head's bias."""
    ...


class BlockModelConfig(ModelConfig, Protocol):
  """Configs of families with repeated blocks."""

  @property
  def num_blocks(self) -> int:
    """Number of blocks, whose outputs are the features `block_0`, `block_1`, …"""
    ...


FAMILIES = {
  'mixer': 'mixer_jax.models.mixer',
  'resnet': 'mixer_jax.models.resnet',
  'vit': 'mixer_jax.models.vit',
}
"""Name, as in `config.model.family` -> module."""

DEFAULT = 'mixer'
"""The family of a config that names none, as those of the first release do."""

ENTRY_POINTS = 'mixer_jax.families'

_REQUIRED = ('NAME', 'Config', 'PARAMETERS', 'SIZES', 'SPLIT', 'ARCHITECTURE', 'run')

_FIELDS = ('family', 'image_size', 'num_classes', 'input_range', 'dtype', 'head_bias')

_SPLIT_AXES = ('model', 'fsdp')

_NEEDED_FOR = {
  'grow': 'cannot be given another image size',
  'keep_blocks': 'does not define keep_blocks: none of its blocks can be left out',
  'stem_kernel': 'has no stem whose kernel could be drawn',
  'token_mixing': 'mixes no tokens by weights',
  'position_embeddings': 'has no position embeddings',
  'attention_weights': 'has no attention: mixer-jax weights draws the weights that it has',
  'match_permutation': 'cannot be matched to permuted images',
  'LAYOUTS': 'has no layout of weights files',
}
"""Capability -> what a model without it cannot do."""

_added: dict[str, str] = {}

_reported: set[tuple[str, str]] = set()
"""(name, module) of the families whose faults `load_all` has logged."""


def register(name: str, module: str) -> None:
  """Add a family from outside the package, in this process only.

  Args:
    name: the value of `config.model.family`.
    module: full name of the module that defines it, imported when it is first needed.

  Raises:
    UserError: a name or module that is empty or no text, or a name that another module has already.
  """
  if not isinstance(name, str) or not name:
    raise UserError(f'the name of a model family must be a text that is not empty, not {name!r}')
  if not isinstance(module, str) or not module:
    given = f'the module {module.__name__}' if isinstance(module, ModuleType) else repr(module)
    raise UserError(
      f'the module of the model family {name!r} must be its full name as a text, not {given}'
    )
  known = registered().get(name, module)
  if known != module:
    raise UserError(f'the model family {name!r} is {known} already')
  if name not in FAMILIES:
    _added[name] = module


def registered() -> dict[str, str]:
  """Name -> module of all families: the package's, those of entry points, those added."""
  return {**FAMILIES, **_from_entry_points(), **_added}


def added() -> dict[str, str]:
  """The families that `register` added in this process: another process has to add them too."""
  return dict(_added)


def added_folders() -> list[str]:
  """Folders from which another process can import the modules of `added`."""
  folders = []
  for name, module in _added.items():
    file = pathlib.Path(inspect.getfile(load(name)))
    depth = module.count('.') + (file.name == '__init__.py')
    folders.append(str(file.absolute().parents[depth]))
  return folders


@functools.cache
def _from_entry_points() -> dict[str, str]:
  found = importlib.metadata.entry_points(group=ENTRY_POINTS)
  return {point.name: point.value for point in found if point.name not in FAMILIES}


def load(name: str) -> ModuleType:
  """Import a family by its name.

  Raises:
    UserError: there is no such family, or its module cannot be imported or is faulty.
  """
  modules = registered()
  if not isinstance(name, str) or name not in modules:
    *most, last = map(repr, modules)
    raise UserError(
      f'model.family must be {", ".join(most)} or {last}, not {name!r}, which is not '
      'registered here: name a module that calls mixer_jax.register_family by --import=MODULE, or '
      f'install a package with an entry point of {ENTRY_POINTS!r}'
    )
  return _loaded(name, modules[name])


@functools.cache
def _loaded(name: str, module: str) -> ModuleType:
  try:
    family = importlib.import_module(module)
  except Exception as error:
    raise UserError(
      f'the model family {name!r} cannot be imported: module {module}: '
      f'{type(error).__name__}: {one_line(error)}'
    ) from error
  if fault := next(_faults(name, family), None):
    raise UserError(f'the model family {name!r} is faulty: module {module}: {fault}')
  return family


def _faults(name: str, family: ModuleType) -> Iterator[str]:
  """Yield what is wrong with a family's module.

  A later check assumes that the earlier ones found nothing: use the first fault alone.

  Args:
    name: the name in the registry.
  """
  if missing := [required for required in _REQUIRED if not hasattr(family, required)]:
    yield f'it does not define {", ".join(missing)}'
  config = family.Config
  frozen = getattr(getattr(config, '__dataclass_params__', None), 'frozen', False)
  if not isinstance(config, type) or not frozen:
    yield f'Config must be a frozen dataclass, not {config!r}'
  fields = {field.name: field for field in dataclasses.fields(config)}
  for field in _FIELDS:
    if field not in fields:
      yield f'Config has no field {field!r}'
  default = fields['family'].default
  if default is not dataclasses.MISSING and default != name:
    yield f'Config.family is {default!r} by default, but the family is registered as {name!r}'
  for table in ('SIZES', 'SPLIT'):
    if not isinstance(getattr(family, table), Mapping):
      yield f'{table} must be a mapping from letters'
  for table in ('SIZES', 'COLUMNS', 'ARCHITECTURE', 'SUMMARY', 'ARITHMETIC'):
    listed = getattr(family, table, ())
    if isinstance(listed, str) or not isinstance(listed, Iterable):
      yield f'{table} must be a tuple of names, not {listed!r}'
    rows = listed.items() if isinstance(listed, Mapping) else enumerate(listed)
    for row, field in rows:
      if field not in fields and not hasattr(config, str(field)):
        yield f'{table}[{row!r}]: Config has no field or property {field!r}'
  optional = getattr(family, 'OPTIONAL', '')
  if not isinstance(optional, str) or not set(optional) <= set(family.SIZES):
    yield f'OPTIONAL must be a text of letters of SIZES, not {optional!r}'
  for letter, axis in family.SPLIT.items():
    if axis not in _SPLIT_AXES:
      known = ' or '.join(map(repr, _SPLIT_AXES))
      yield f'SPLIT[{letter!r}]: the axis of the mesh must be {known}, not {axis!r}'
  own_sizes = hasattr(family, 'block_sizes')
  has_blocks = 'num_blocks' in fields or hasattr(config, 'num_blocks')
  for what in ('PARAMETERS', 'STATE'):
    table = getattr(family, what, {})
    for fault in parameters.table_faults(table, family.SIZES, own_sizes, has_blocks):
      yield f'{what}{fault}'
  for required in ('head/kernel', 'head/bias'):
    if required not in family.PARAMETERS:
      yield f'PARAMETERS has no row {required!r}'


def load_all() -> dict[str, ModuleType]:
  """Import every family.

  A family from outside the package that cannot be imported or is faulty is left out, with one
  warning in the log: models of the other families do not need it.
  """
  loaded = {}
  for name, module in registered().items():
    try:
      loaded[name] = load(name)
    except UserError as error:
      if name in FAMILIES:
        raise
      if (name, module) not in _reported:
        _reported.add((name, module))
        log.warning('left out: %s', error)
  return loaded


def of(config) -> ModuleType:
  """The family of a config.

  Raises:
    UserError: it is the config of no family.
  """
  name = getattr(config, 'family', None)
  if name in registered() and isinstance(config, load(name).Config):
    return load(name)
  known = ', '.join(sorted(family.Config.__name__ for family in load_all().values()))
  raise UserError(f'no model for a config of type {type(config).__name__}: use {known}')


def source_file(config) -> pathlib.Path:
  """Path of the module that defines the family of a config."""
  return pathlib.Path(inspect.getfile(of(config)))


def capability(config, name: str):
  """Return what a family defines under this name; see the text of this module.

  Raises:
    UserError: the family of the config has no such capability.
  """
  family = of(config)
  found = getattr(family, name, None)
  if found is None:
    raise UserError(f'a {family.NAME} {_NEEDED_FOR[name]}')
  return found


def has_capability(config, name: str) -> bool:
  """Return True if `capability` would find it."""
  return getattr(of(config), name, None) is not None


def families_with(name: str) -> list[str]:
  """Names, as people call them, of the families that define a capability."""
  return [family.NAME for family in load_all().values() if getattr(family, name, None) is not None]


def tables(family: ModuleType) -> dict[str, parameters.Param]:
  """All rows of a family: parameters and model state."""
  return {**family.PARAMETERS, **getattr(family, 'STATE', {})}


@functools.cache
def _row_finder(family: ModuleType):
  return parameters.row_finder(tables(family))


def find_rows(
  names: list[str], config=None
) -> tuple[ModuleType, Mapping[str, tuple[str, parameters.Param]]]:
  """Return the family that has arrays of these names, and (pattern, row) of each.

  Args:
    names: paths of leaves, each ending in the name of a parameter.
    config: whose family it is; None: the family is recognised by the names.

  Raises:
    ValueError: a name is of no parameter, or several families have all of them and differ in what
      they say of these.
  """
  families = [of(config)] if config is not None else list(load_all().values())
  fits = []
  for family in families:
    find = _row_finder(family)
    rows = {name: row for name in names if (row := find(name)) is not None}
    if len(rows) == len(names):
      fits.append((family, rows))
  if not fits:
    known = [{name for name in names if _row_finder(family)(name)} for family in families]
    first = next(name for name in names if name not in max(known, key=len))
    raise ValueError(f'no model has a parameter {first}, next to the others of this tree')
  if len(fits) > 1:
    complete = [fit for fit in fits if _is_complete(*fit)]
    fits = complete or fits
  family, rows = fits[0]
  for other, same in fits[1:]:
    if any(_differ(family, rows[name][1], other, same[name][1]) for name in names):
      raise ValueError(f'parameters of a {family.NAME} or of a {other.NAME}: say of which config')
  return family, rows


def _is_complete(family: ModuleType, rows: Mapping[str, tuple[str, parameters.Param]]) -> bool:
  return set(family.PARAMETERS) <= {pattern for pattern, _ in rows.values()}


def _differ(family, row: parameters.Param, other, same: parameters.Param) -> bool:
  axes = lambda f, r: [f.SPLIT.get(letter) for letter in r.axes]
  return row.decay != same.decay or axes(family, row) != axes(other, same)
