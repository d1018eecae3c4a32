"""Weights files <-> params: the names and axes under which authors and hubs store a model.

Every family says which layouts its files have (`models.files.Layout`). The layout of a file, and
with it the family, is recognised by the names in it; the config is read from the shapes.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import Any

import numpy as np
from etils import epath

from mixer_jax import models
from mixer_jax.checkpoints.containers import Container, Spec, open_container
from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.models import family as families
from mixer_jax.models import parameters
from mixer_jax.models.files import Found, Layout
from mixer_jax.paths import is_remote, user_path

log = logging.getLogger(__name__)

_WRAPPERS = ('opt/target/', 'params/')
_PREFIXES = ('state_dict.', 'module.', 'model.', '_orig_mod.', 'backbone.', 'ema.')
"""Names under which PyTorch's wrappers and training programs keep a model."""
_LISTED = 2000
"""Maximum number of faults listed in one error message."""


@dataclasses.dataclass(frozen=True)
class WeightsFile:
  """Contents of a weights file."""

  config: Any
  """The model, whose family the names in the file decide."""
  params: dict
  """float32, on the host, in order of depth."""
  layout: str
  dtypes: tuple[str, ...]
  """Dtypes in the file."""


def read(path, fields: Mapping[str, Any] | None = None) -> WeightsFile:
  """Read a `.npz` or `.safetensors` file of any known layout.

  Args:
    fields: of the config, what is known from elsewhere, such as `num_heads` of a ViT; it counts
      where the file does not tell it.

  Raises:
    UserError: not such a file; or arrays are missing, superfluous, of the wrong
      shape or dtype, or not finite: all of them are listed.
  """
  path = user_path(path)
  with open_container(path) as container:
    try:
      weights = _read(container, fields or {})
    except StorageError:
      raise
    except UserError as error:
      if str(error).startswith(str(path)):
        raise
      raise UserError(f'{path}: {error}') from error
  if weights.dtypes != ('float32',):
    log.info('%s: %s weights, converted to float32', path, ' and '.join(weights.dtypes))
  return weights


def save(path, config, params: Mapping, layout: str | None = None) -> None:
  """Write params as a weights file, by default `modern` in `.npz`, `timm` in `.safetensors`.

  The file appears when it is complete. Read again, it gives the same bits. Neither layout stores
  GELU, input range and the like.

  Args:
    path: local or `gs://…`; its suffix chooses the layout where none is given.
    config: the model of the params.
    params: nested dict of float arrays under the published names.
    layout: 'modern' or 'timm'.

  Raises:
    UserError: no such layout, another suffix than the layout's, a family without
      layouts, or params that are not those of `config`, or not finite.
  """
  path = user_path(path)
  chosen = layout_to_write(path, layout, config)
  params, state = models.split(params)
  if state:
    raise UserError(f'{path}: weights files do not hold the model state that this model has')
  flat = {name: np.asarray(leaf) for name, leaf in parameters.flatten(dict(params)).items()}
  wanted = models.param_shapes(config)
  model = f'a {families.of(config).NAME}'
  faults = parameters.faults(wanted, {n: a.shape for n, a in flat.items()}, model)
  faults += [f'{name} is not finite' for name, array in flat.items() if not _is_finite(array)]
  if faults:
    raise UserError(f'{path} was not written: {"; ".join(faults)}')
  if refusal := chosen.refusal(config):
    raise UserError(f'{path} was not written: {refusal}')
  places = families.of(config).places(config) if chosen.stages else []
  stored = chosen.stored({name: flat[name] for name in wanted})
  arrays = {chosen.in_stages(name, places): array for name, array in stored.items()}
  aside = path.parent / f'.{path.stem}.{os.getpid()}{path.suffix}'
  try:
    _write(aside, arrays, chosen.about(config))
    aside.replace(path)
  except OSError as error:
    raise UserError(f'{path} was not written: {error.strerror or error}') from error
  finally:
    with contextlib.suppress(OSError):
      aside.unlink(missing_ok=True)


def _write(path: epath.Path, arrays: dict[str, np.ndarray], about: Mapping[str, str]) -> None:
  with path.open('wb') as file:
    if path.suffix == '.npz':
      np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]
      return
    import safetensors.numpy

    about = {'format': 'pt', **about}  # PyTorch's readers ask for the format
    if is_remote(path):
      file.write(safetensors.numpy.save(arrays, metadata=about))
      return
  mode = path.stat().mode  # the library makes a file that only its owner can read
  try:
    safetensors.numpy.save_file(arrays, str(path), metadata=about)
  except safetensors.SafetensorError as error:
    raise OSError(0, one_line(error)) from error
  os.chmod(path, mode & 0o777)


def names_to_write() -> list[str]:
  """Names of the layouts that files are written in."""
  return list(dict.fromkeys(layout.name for _, layout in _layouts() if layout.suffix))


def layout_to_write(path: epath.Path, name: str | None = None, config=None) -> Layout:
  """Return the layout of this name, or the one of the path's suffix.

  Args:
    config: the model to be written; None: any.

  Raises:
    UserError: name and suffix do not fit, or the model's family has no layouts.
  """
  known = [layout for _, layout in _layouts()]
  if config is not None:
    known = models.capability(config, 'LAYOUTS')
  written = {layout.name: layout for layout in known if layout.suffix}
  if name is not None and name not in written:
    raise UserError(f'no layout {name!r} to write: there are {", ".join(written)}')
  for layout in written.values():
    if path.suffix == layout.suffix and name in (None, layout.name):
      return layout
  ways = ', '.join(f'*{layout.suffix} ({layout.name})' for layout in written.values())
  raise UserError(f'{path}: weights are written as {ways}')


def _layouts() -> list[tuple[ModuleType, Layout]]:
  """All layouts, each with its family."""
  loaded = families.load_all().values()
  return [(family, layout) for family in loaded for layout in getattr(family, 'LAYOUTS', ())]


def _read(container: Container, fields: Mapping[str, Any]) -> WeightsFile:
  keys = _unwrap(container.specs)
  family, layout, num_blocks = _recognise(keys)
  keys = {flat: keys[name] for flat, name in layout.flattened(keys).items()}
  axes = {name: row.axes for name, (row, _) in _rows(family, num_blocks).items()}
  stored_name = {name: layout.rename(name) for name in axes}
  rank = {stored_name[name]: len(layout.axes(name) or row) for name, row in axes.items()}
  specs = {name: container.specs[key] for name, key in keys.items()}
  found = {
    name: layout.without_leading_ones(spec.shape, rank.get(name)) for name, spec in specs.items()
  }
  shapes = {n: layout.parameter_shape(n, found[s]) for n, s in stored_name.items() if s in found}
  sizes = parameters.read_sizes(family.PARAMETERS, family.SIZES, num_blocks, shapes)
  faults, config = [], None
  optional = getattr(family, 'OPTIONAL', '')
  if all(letter in sizes or letter in optional for letter in family.SIZES):
    try:
      config = family.from_file(Found(num_blocks, sizes, shapes, {**container.about, **fields}))
    except UserError as error:
      faults.append(str(error))
  if config is not None:
    expected: Mapping[str, Sequence] = models.param_shapes(config)
  else:  # as far as it is known
    size = lambda letter: int(letter) if letter.isdecimal() else sizes.get(letter, letter)
    is_known = lambda row: not any(x in optional and x not in sizes for x in row)
    expected = {n: [size(x) for x in row] for n, row in axes.items() if is_known(row)}
  wanted = {stored_name[n]: layout.stored_shape(n, shape) for n, shape in expected.items()}
  in_file = lambda name: keys.get(name) or _in_stages(layout, family, config, name)
  short = stored_name.get(layout.first_row)
  lacks_row = short in wanted and found.get(short) == (1, wanted[short][1] - 1, *wanted[short][2:])
  if lacks_row:
    wanted[short] = found[short]
  faults = (
    parameters.faults(
      {in_file(name): shape for name, shape in wanted.items()},
      {in_file(name): shape for name, shape in found.items()},
      f'a {family.NAME}',
    )
    + faults
  )
  faults += [
    f'{in_file(name)} holds {specs[name].dtype}, expected floats'
    for name in wanted
    if name in specs and not specs[name].is_float
  ]

  params = {}
  for stored, names in _by_stored_name(stored_name, expected).items():
    if found.get(stored) != wanted[stored] or not specs[stored].is_float:
      continue
    array = container.read(keys[stored]).reshape(wanted[stored])
    if lacks_row and stored == short:
      array = np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
    array = _as_float32(array)
    if not _is_finite(array):
      faults.append(f'{in_file(stored)} is not finite')
    if faults or config is None:
      params.clear()
      continue
    for name in names:
      params[name] = layout.parameter(name, array, tuple(expected[name]))
  if faults or config is None:
    more = f'; and {len(faults) - _LISTED} more' if len(faults) > _LISTED else ''
    raise UserError('; '.join(faults[:_LISTED]) + more)
  dtypes = tuple(sorted({specs[stored].dtype for stored in wanted}))
  in_order = {name: params[name] for name in expected}
  return WeightsFile(config, parameters.unflatten(in_order), layout.name, dtypes)


def _in_stages(layout: Layout, family: ModuleType, config, name: str) -> str:
  """Name in a file of an array that it should have."""
  return layout.in_stages(name, family.places(config)) if layout.stages and config else name


def _by_stored_name(stored_name: Mapping[str, str], names: Iterable[str]) -> dict[str, list[str]]:
  """Stored name -> the parameters in this array."""
  listed: dict[str, list[str]] = {}
  for name in names:
    listed.setdefault(stored_name[name], []).append(name)
  return listed


def _rows(family: ModuleType, num_blocks: int) -> dict:
  return parameters.rows(family.PARAMETERS, num_blocks)


def _unwrap(specs: Mapping[str, Spec]) -> dict[str, str]:
  """Name in its layout -> name in the file, which may put a prefix before all."""
  keys = {name: name for name in specs}
  for prefix in _WRAPPERS:
    if any(name.startswith(prefix) for name in keys):
      kept = [name for name in keys if not _is_of_optimizer(name, prefix)]
      twice = [name for name in kept if prefix + name in keys]
      if twice:
        raise UserError(f'array {twice[0]} is in it twice: also as {prefix}{twice[0]}')
      keys = {name.removeprefix(prefix): keys[name] for name in kept}
  while keys and (
    shared := [prefix for prefix in _PREFIXES if all(name.startswith(prefix) for name in keys)]
  ):
    keys = {name.removeprefix(shared[0]): key for name, key in keys.items()}
  return keys


def _is_of_optimizer(name: str, prefix: str) -> bool:
  """Return True for an array of an optimizer, which may be stored next to wrapped params."""
  return name.startswith('opt/') and not name.startswith(prefix)


def _recognise(names: Mapping[str, str]) -> tuple[ModuleType, Layout, int]:
  """Return the layout that most of these names belong to, its family, and the number of blocks."""
  best: tuple[int, ModuleType | None, Layout | None, int] = (0, None, None, 0)
  broken: UserError | None = None
  for family, layout in _layouts():
    try:
      flat = layout.flattened(names)
    except UserError as error:
      broken = error
      continue
    indices = {int(match[1]) for name in flat if (match := layout.block.match(name))}
    if indices:
      # One stray number must not make thousands of blocks missing.
      count = max(indices) + 1
      num_blocks = count if count <= 2 * len(indices) else len(indices)
      score = sum(layout.rename(name) in flat for name in _rows(family, num_blocks))
      best = max(best, (score, family, layout, num_blocks), key=lambda found: found[0])
  _, family, layout, num_blocks = best
  if broken and (family is None or layout is None):
    raise broken
  if family is None or layout is None:
    some = ', '.join(list(names)[:3]) or 'no arrays at all'
    names_of = list(dict.fromkeys(f'a {family.NAME}' for family, _ in _layouts()))
    known = ' or '.join(filter(None, (', '.join(names_of[:-1]), names_of[-1])))
    raise UserError(f'these are not the weights of {known}: it holds {some}')
  return family, layout, num_blocks


def _as_float32(array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):  # what is too large becomes infinite, and is reported
    return array.astype(np.float32, copy=False)


def _is_finite(array: np.ndarray) -> bool:
  with np.errstate(all='ignore'):
    # A sum is one pass and no copy; only if it overflows are the values looked at.
    return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
