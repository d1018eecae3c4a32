"""The registry of model families, and the interface of a family's module.

A family is one module and one row in `FAMILIES`, or one call of `register`. An installed package
can add a family without a call, by an entry point:

    [project.entry-points.'mixer_jax.families']
    vit = 'my_package.vit'

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
                 (B, C) and `logits` (B, N), float32; `state` is returned as it was given where
                 nothing changes it

and may define

    STATE        a table like PARAMETERS of arrays that training updates without a gradient, such
                 as the statistics of BatchNorm
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
    keep_blocks  (config, params, blocks) -> (config, params) with some of the blocks
    token_mixing (config, params, block) -> the kernel (S, T) that mixes tokens
    match_permutation (config, params, patches, within) -> params for permuted images
    LAYOUTS      tuple of `models.files.Layout`: its weights files; with `from_sizes`
                 (num_blocks, sizes) -> Config
    PUBLISHED    tuple of `models.files.PublishedFile`
"""

import functools
import importlib
import importlib.metadata
import inspect
import pathlib
from collections.abc import Mapping
from types import ModuleType
from typing import Any, ClassVar, Protocol

from mixer_jax.errors import UserError
from mixer_jax.models import parameters


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
}
"""Name, as in `config.model.family` -> module."""

DEFAULT = 'mixer'
"""The family of a config that names none, as those of the first release do."""

ENTRY_POINTS = 'mixer_jax.families'

_REQUIRED = ('NAME', 'Config', 'PARAMETERS', 'SIZES', 'SPLIT', 'ARCHITECTURE', 'run')

_NEEDED_FOR = {
  'grow': 'cannot be given another image size',
  'keep_blocks': 'has blocks that need each other: none can be left out',
  'token_mixing': 'mixes no tokens',
  'match_permutation': 'cannot be matched to permuted images',
  'LAYOUTS': 'has no layout of weights files',
}
"""Capability -> what a model without it cannot do."""

_added: dict[str, str] = {}


def register(name: str, module: str) -> None:
  """Add a family from outside the package.

  Args:
    name: the value of `config.model.family`.
    module: full name of the module that defines it, imported when it is first needed.

  Raises:
    ValueError: another module has this name already.
  """
  known = registered().get(name, module)
  if known != module:
    raise ValueError(f'the model family {name!r} is {known} already')
  if name not in FAMILIES:
    _added[name] = module


def registered() -> dict[str, str]:
  """Name -> module of all families: the package's, those of entry points, those added."""
  return {**FAMILIES, **_from_entry_points(), **_added}


def added() -> dict[str, str]:
  """The families that `register` added in this process: another process has to add them too."""
  return dict(_added)


@functools.cache
def _from_entry_points() -> dict[str, str]:
  found = importlib.metadata.entry_points(group=ENTRY_POINTS)
  return {point.name: point.value for point in found if point.name not in FAMILIES}


def load(name: str) -> ModuleType:
  """Import a family by its name.

  Raises:
    UserError: there is no such family.
  """
  modules = registered()
  if name not in modules:
    raise UserError(f'model.family must be {" or ".join(map(repr, modules))}, not {name!r}')
  return _loaded(modules[name])


@functools.cache
def _loaded(module: str) -> ModuleType:
  family = importlib.import_module(module)
  if missing := [name for name in _REQUIRED if not hasattr(family, name)]:
    raise TypeError(f'{module} is no model family: it does not define {", ".join(missing)}')
  return family


def load_all() -> dict[str, ModuleType]:
  """Import every family."""
  return {name: load(name) for name in registered()}


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
