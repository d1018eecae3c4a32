"""Weights files <-> params: the names and axes under which authors and hubs store a model.

Every family says which layouts its files have (`models.files.Layout`). The layout of a file, and
with it the family, is recognised by the names in it; the config is read from the shapes.
"""

import contextlib
import dataclasses
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath

from mixer_jax import models
from mixer_jax.checkpoints.containers import Container, Spec, open_container
from mixer_jax.checkpoints.recognition import Recognised, all_layouts, mixed_in, recognise
from mixer_jax.errors import StorageError, UserError, one_line
from mixer_jax.models import family as families
from mixer_jax.models import parameters
from mixer_jax.models.files import Found, Layout
from mixer_jax.models.parameters import Shape
from mixer_jax.paths import is_remote, user_path

log = logging.getLogger(__name__)

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
      where the file does not store it.

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
  return list(dict.fromkeys(layout.name for _, layout in all_layouts() if layout.suffix))


def layout_to_write(path: epath.Path, name: str | None = None, config=None) -> Layout:
  """Return the layout of this name, or the one of the path's suffix.

  Args:
    config: the model to be written; None: any.

  Raises:
    UserError: name and suffix do not fit, or the model's family has no layouts.
  """
  known = [layout for _, layout in all_layouts()]
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


def told(config, layout: Layout) -> Any:
  """Return the config that a reader of a file learns, which need not have all fields of this one.

  Raises:
    UserError: the file would not determine a config.
  """
  family, num_blocks = families.of(config), config.num_blocks
  shapes = {
    name: layout.parameter_shape(name, tuple(layout.stored_shape(name, shape)))
    for name, shape in models.param_shapes(config).items()
  }
  sizes = parameters.read_sizes(family.PARAMETERS, family.SIZES, num_blocks, shapes)
  return family.from_file(Found(num_blocks, sizes, shapes, layout.about(config)))


def _read(container: Container, fields: Mapping[str, Any]) -> WeightsFile:
  file = _File(container, recognise(container.specs))
  sizes, shapes = file.sizes(), file.parameter_shapes()
  faults, config = [], None
  if file.tells_all(sizes):
    family, num_blocks = file.recognised.family, file.recognised.num_blocks
    try:
      config = family.from_file(Found(num_blocks, sizes, shapes, container.about, fields))
    except UserError as error:
      faults.append(str(error))
  expected = file.expected(sizes) if config is None else models.param_shapes(config)
  wanted = file.wanted(expected)
  faults = [*file.faults(wanted, config), *faults]
  params = {}
  for stored, array in file.arrays(wanted):
    if not _is_finite(array):
      faults.append(f'{file.key(stored, config)} is not finite')
    if not faults:
      params.update(file.parameters(stored, array, expected))
  if faults or config is None:
    more = f'; and {len(faults) - _LISTED} more' if len(faults) > _LISTED else ''
    raise UserError('; '.join(faults[:_LISTED]) + more)
  in_order = parameters.unflatten({name: params[name] for name in expected})
  return WeightsFile(config, in_order, file.recognised.layout.name, file.dtypes(wanted))


class _File:
  """Arrays of a weights file by their stored names, in which blocks have flat numbers.

  Where a file does not determine a config, shapes that are expected have letters in the place of
  sizes, so that all that is wrong with it can be said at once.
  """

  def __init__(self, container: Container, recognised: Recognised):
    self.recognised = recognised
    self._container = container
    self._family, self._layout = recognised.family, recognised.layout
    rows = parameters.rows(self._family.PARAMETERS, recognised.num_blocks)
    self._axes = {name: row.axes for name, (row, _) in rows.items()}
    self._stored_name = recognised.stored_names()
    self._parameters: dict[str, list[str]] = {}
    for name, stored in self._stored_name.items():
      self._parameters.setdefault(stored, []).append(name)
    rank = {s: len(self._layout.axes(n) or self._axes[n]) for n, s in self._stored_name.items()}
    self._shapes = {
      name: self._layout.without_leading_ones(shape, rank.get(name))
      for name, shape in ((name, self._spec(name).shape) for name in recognised.places)
    }

  def parameter_shapes(self) -> dict[str, Shape]:
    """Parameter -> its shape, as far as it follows from the stored one."""
    return {
      name: self._layout.parameter_shape(name, self._shapes[stored])
      for name, stored in self._stored_name.items()
      if stored in self._shapes
    }

  def sizes(self) -> dict[str, int]:
    """Letter of an axis -> the size that most arrays agree on."""
    table, letters = self._family.PARAMETERS, self._family.SIZES
    return parameters.read_sizes(
      table, letters, self.recognised.num_blocks, self.parameter_shapes()
    )

  def tells_all(self, sizes: Mapping[str, int]) -> bool:
    """Return True if no size is missing that the family needs for a config."""
    optional = getattr(self._family, 'OPTIONAL', '')
    return all(letter in sizes or letter in optional for letter in self._family.SIZES)

  def expected(self, sizes: Mapping[str, int]) -> dict[str, Sequence]:
    """Parameter -> shape of a model with these sizes; letters stand for those that are missing."""
    optional = set(getattr(self._family, 'OPTIONAL', '')) - set(sizes)
    size = lambda letter: int(letter) if letter.isdecimal() else sizes.get(letter, letter)
    return {
      name: [size(letter) for letter in axes]
      for name, axes in self._axes.items()
      if optional.isdisjoint(axes) or self._stored_name[name] in self._shapes
    }

  def wanted(self, expected: Mapping[str, Sequence]) -> dict[str, Sequence]:
    """Parameter -> shape to stored name -> shape."""
    return {
      stored: self._layout.stored_shape(name, shape, self._shapes.get(stored))
      for name, shape in expected.items()
      for stored in [self._stored_name[name]]
    }

  def faults(self, wanted: Mapping[str, Sequence], config) -> list[str]:
    """List what is wrong with names, shapes and dtypes, under the names of the file."""
    strange = {name: shape for name, shape in self._shapes.items() if name not in wanted}
    other = mixed_in(self.recognised, strange)
    mixed = f'it mixes names of the layouts {self._layout.name} and {other}'
    return [
      *([mixed] if other else []),
      *parameters.faults(
        {self.key(name, config): shape for name, shape in wanted.items()},
        {self.key(name, config): shape for name, shape in self._shapes.items()},
        f'a {self._family.NAME}',
      ),
      *(
        f'{self.key(name, config)} holds {self._spec(name).dtype}, expected floats'
        for name in wanted
        if name in self._shapes and not self._spec(name).is_float
      ),
    ]

  def key(self, stored: str, config) -> str:
    """Name in the file of an array that it has or, if it is of this config, should have."""
    if place := self.recognised.places.get(stored):
      return place.name
    if self._layout.stages and config is not None:
      return self._layout.in_stages(stored, self._family.places(config))
    return stored

  def arrays(self, wanted: Mapping[str, Sequence]) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the stored arrays that are as wanted, float32; each is read once."""
    by_key: dict[str, list[str]] = {}
    for name, shape in wanted.items():
      if self._shapes.get(name) == shape and self._spec(name).is_float:
        by_key.setdefault(self.recognised.places[name].name, []).append(name)
    for key, names in by_key.items():
      array = _as_float32(self._container.read(key))
      for name in names:
        number = self.recognised.places[name].number
        yield name, (array if number is None else array[number]).reshape(self._shapes[name])

  def parameters(
    self, stored: str, array: np.ndarray, expected: Mapping[str, Sequence]
  ) -> dict[str, np.ndarray]:
    """Return the parameters that are in a stored array."""
    return {
      name: self._layout.parameter(name, array, tuple(expected[name]))
      for name in self._parameters[stored]
      if name in expected
    }

  def dtypes(self, wanted: Mapping[str, Sequence]) -> tuple[str, ...]:
    """Dtypes of the arrays of the model."""
    return tuple(sorted({self._spec(name).dtype for name in wanted}))

  def _spec(self, stored: str) -> Spec:
    name, number = self.recognised.places[stored]
    spec = self._container.specs[name]
    return spec if number is None else dataclasses.replace(spec, shape=spec.shape[1:])


def _as_float32(array: np.ndarray) -> np.ndarray:
  with np.errstate(over='ignore'):  # what is too large becomes infinite, and is reported
    return array.astype(np.float32, copy=False)


def _is_finite(array: np.ndarray) -> bool:
  with np.errstate(all='ignore'):
    # A sum is one pass and no copy; only if it overflows are the values looked at.
    return bool(np.isfinite(array.sum()) or np.isfinite(array).all())
