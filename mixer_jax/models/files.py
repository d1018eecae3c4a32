"""Weights files of a model family, as its module describes them: layouts and published files."""

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.models.parameters import Shape

Rules = Sequence[tuple[re.Pattern, str]]
"""(pattern, replacement), applied in this order."""

Axes = tuple[int | tuple[int, ...], ...]
"""For each axis of a stored array its place in the parameter: a number; several for axes that are
merged; or () for an axis of size 1 that the parameter does not have."""


@dataclasses.dataclass(frozen=True)
class Stages:
  """Blocks that a file numbers by stage and place in the stage; parameters count them from 0 on.

  Attributes:
    pattern: matches the beginning of the stored names of a block; captures both numbers.
    template: makes that beginning of both numbers.
    flat: makes the beginning of the name with the flat number of the block.
    first: number of the first stage and of the first block of each.
  """

  pattern: re.Pattern
  template: str
  flat: str
  first: int


@dataclasses.dataclass(frozen=True)
class Stack:
  """Arrays of all blocks that a file stores as one, along an axis before their own.

  Attributes:
    prefix: beginning of their names.
    flat: beginning of the name of each, with the number of its block.
  """

  prefix: str
  flat: str


_MAX_STACKED = 2**12
"""Blocks; one strange number must not make millions of names."""


class Place(NamedTuple):
  """Where a stored array is in a file: its name there, and its number in a stack of blocks."""

  name: str
  number: int | None = None


@dataclasses.dataclass(frozen=True)
class Found:
  """Sizes in a weights file, from which its family makes a config.

  Attributes:
    num_blocks: number of blocks.
    sizes: letter of an axis -> its size; without those it does not determine.
    shapes: parameter name -> shape; 0 for an axis that the layout merges with others.
    about: text fields of the file.
    fields: what is known about the config from elsewhere.
  """

  num_blocks: int
  sizes: Mapping[str, int]
  shapes: Mapping[str, Shape]
  about: Mapping[str, str] = dataclasses.field(default_factory=dict)
  fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def number(self, name: str) -> int | None:
    """Return a field that no array determines: from the text of the file, else as it is known.

    Raises:
      UserError: the text is no number.
    """
    if name not in self.about:
      return self.fields.get(name)
    try:
      return int(self.about[name])
    except ValueError as error:
      raise UserError(f'its metadata has {name}={self.about[name]!r:.80}, no number') from error


@dataclasses.dataclass(frozen=True)
class Layout:
  """Names and axes under which the parameters of a family are stored.

  Attributes:
    name: as in `--layout`.
    suffix: of the files that are written in it; '': it is only read.
    block: matches the beginning of the stored names of a block and captures its number.
    rules: parameter name -> stored name.
    aliases: other names of a file -> stored names.
    axes: parameter name -> axes of its stored array; (): they are the same.
    pieces: parameter name -> (place, number) of it among the parameters that are stored as one
      array, joined along the first axis.
    leading_ones: arrays may have axes of size 1 before their own.
    stages: how blocks are numbered, if not from 0 on; their flat names begin as `block` says.
    stack: how arrays of all blocks are stored as one, if a file may do so.
    first_row: name of a parameter, (1, N, …), whose first row may be missing; it is then zero.
    strangers: (pattern, text) of stored names of a model which the family does not have,
      and what that is.
    refusal: config -> why a model cannot be stored in it; '': it can.
    caveat: config -> a warning for who writes it; '': none.
    about: config -> text fields that a file says about the model, where it can.
  """

  name: str
  suffix: str
  block: re.Pattern
  rules: Rules = ()
  aliases: Rules = ()
  axes: Callable[[str], Axes] = lambda name: ()
  pieces: Callable[[str], tuple[int, int]] = lambda name: (0, 1)
  leading_ones: bool = False
  stages: Stages | None = None
  stack: Stack | None = None
  first_row: str = ''
  strangers: Sequence[tuple[re.Pattern, str]] = ()
  refusal: Callable[[Any], str] = lambda config: ''
  caveat: Callable[[Any], str] = lambda config: ''
  about: Callable[[Any], Mapping[str, str]] = lambda config: {}

  def rename(self, name: str) -> str:
    """Parameter name -> stored name, with the flat number of its block."""
    return _replaced(self.rules, name)

  def flattened(self, shapes: Mapping[str, Shape]) -> dict[str, Place]:
    """Return stored name with the flat number of its block -> its place in a file.

    Args:
      shapes: of the arrays of the file, by their names.

    Raises:
      UserError: blocks are missing in between, or two names mean the same.
    """
    flat: dict[str, Place] = {}
    known = {name: _replaced(self.aliases, name) for name in shapes}
    places = self._places(known.values())
    for name, stored in known.items():
      for key, place in self._parts(name, stored, shapes[name], places):
        if key in flat:
          raise UserError(f'{name} and {flat[key].name} in it are the same array')
        flat[key] = place
    return flat

  def _parts(
    self, name: str, stored: str, shape: Shape, places: Sequence[tuple[int, int]]
  ) -> list[tuple[str, Place]]:
    """Return (flat name, place) of the arrays that are stored as one: mostly a single one."""
    if self.stages and (match := self.stages.pattern.match(stored)):
      number = places.index((int(match[1]), int(match[2])))
      return [(self.stages.flat.format(number) + stored[match.end() :], Place(name))]
    if self.stack and stored.startswith(self.stack.prefix) and shape and shape[0] <= _MAX_STACKED:
      end = stored.removeprefix(self.stack.prefix)
      return [(self.stack.flat.format(i) + end, Place(name, i)) for i in range(shape[0])]
    return [(stored, Place(name))]

  def _places(self, names: Iterable[str]) -> list[tuple[int, int]]:
    """Return the stages and places of the blocks of a file, in order."""
    if self.stages is None:
      return []
    matches = (self.stages.pattern.match(name) for name in names)
    places = sorted({(int(match[1]), int(match[2])) for match in matches if match})
    first = self.stages.first
    expected = [(first, first)]
    for stage, place in places:
      if (stage, place) not in expected:
        missing = next((e for e in expected if e[0] == stage), expected[-1])
        raise UserError(f'{self.stages.template.format(*missing)}… is missing')
      expected = [(stage, place + 1), (stage + 1, first)]
    return places

  def in_stages(self, name: str, places: Sequence[tuple[int, int]]) -> str:
    """Stored name with a flat number -> name in a file.

    Args:
      places: of each block its stage and its place in that, from 0 on.
    """
    match = self.block.match(name)
    if self.stages is None or match is None:
      return name
    stage, place = (number + self.stages.first for number in places[int(match[1])])
    return self.stages.template.format(stage, place) + name[match.end() :]

  def without_leading_ones(self, shape: Shape, rank: int | None) -> Shape:
    """Return a stored shape without the leading ones that an array of this rank may have."""
    extra = len(shape) - rank if self.leading_ones and rank is not None else 0
    return shape[extra:] if extra > 0 and set(shape[:extra]) == {1} else shape

  def stored_shape(self, name: str, shape: Sequence, found: Shape | None = None) -> Sequence:
    """Shape of a parameter -> shape of its stored array; letters stand for unknown sizes.

    Args:
      found: of the array in a file, which may be without the first row of `first_row`.
    """
    if name == self.first_row and found and found == _without_first_row(shape):
      return found
    _, number = self.pieces(name)
    sizes = [_product([shape[i] for i in group]) for group in self._groups(name, len(shape))]
    return (_product([number, sizes[0]]), *sizes[1:]) if number > 1 else tuple(sizes)

  def parameter_shape(self, name: str, shape: Shape) -> Shape:
    """Shape of a stored array -> shape of its parameter; a shape of another rank stays as it is."""
    axes = self.axes(name)
    if not axes or len(axes) != len(shape):
      return shape
    _, number = self.pieces(name)
    shape = (shape[0] // number, *shape[1:])
    groups = self._groups(name, len(shape))
    sizes = {
      i: size if len(group) == 1 else 0
      for group, size in zip(groups, shape, strict=True)
      for i in group
    }
    return tuple(sizes[i] for i in sorted(sizes))

  def parameter(self, name: str, array: np.ndarray, shape: Shape) -> np.ndarray:
    """Stored array -> parameter of this shape; a view where possible."""
    if name == self.first_row and array.shape == _without_first_row(shape):
      array = np.concatenate([np.zeros_like(array[:, :1]), array], axis=1)
    place, number = self.pieces(name)
    array = np.split(array, number)[place] if number > 1 else array
    order = [i for group in self._groups(name, len(shape)) for i in group]
    return array.reshape([shape[i] for i in order]).transpose(np.argsort(order))

  def stored(self, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Parameters -> stored arrays by their flat names, float32 and contiguous."""
    pieces: dict[str, dict[int, np.ndarray]] = {}
    for name, array in arrays.items():
      order = [i for group in self._groups(name, array.ndim) for i in group]
      turned = array.transpose(order).reshape(
        [math.prod(array.shape[i] for i in group) for group in self._groups(name, array.ndim)]
      )
      pieces.setdefault(self.rename(name), {})[self.pieces(name)[0]] = turned
    joined = {
      name: np.concatenate([parts[i] for i in sorted(parts)]) if len(parts) > 1 else parts[0]
      for name, parts in pieces.items()
    }
    return {name: np.ascontiguousarray(array, np.float32) for name, array in joined.items()}

  def _groups(self, name: str, rank: int) -> list[tuple[int, ...]]:
    """For each stored axis, the axes of the parameter that it is made of."""
    axes = self.axes(name) or range(rank)
    return [(axis,) if isinstance(axis, int) else axis for axis in axes]


def _without_first_row(shape: Sequence) -> Sequence:
  """Shape (1, N, …) -> (1, N - 1, …); a size that is not known stays as it is."""
  rows = shape[1] - 1 if isinstance(shape[1], int) else shape[1]
  return (*shape[:1], rows, *shape[2:])


def _replaced(rules: Rules, name: str) -> str:
  for pattern, replacement in rules:
    name = pattern.sub(replacement, name)
  return name


def _product(sizes: Sequence) -> Any:
  """Product of sizes; if one is a letter, the text of the product."""
  if all(isinstance(size, int) for size in sizes):
    return math.prod(sizes)
  return '·'.join(str(size) for size in sizes)


@dataclasses.dataclass(frozen=True)
class PublishedFile:
  """A weights file that someone published.

  Attributes:
    name: the name to load it by, such as 'imagenet1k/Mixer-B_16'.
    url: where it is.
    variant: a name in the family's VARIANTS.
    fields: of the variant's config, what is different.
    mebibytes: to two decimals; None where no size is published.
    recipe: the evaluation recipe that belongs to it.
    crop_fraction: of that recipe; 1 for one without a crop.
    top1: published ImageNet validation accuracy at its image size, percent.
    real: published ImageNet ReaL accuracy, percent.
    note: anything else.
    pretrained_on: data set of a model that was trained as in the paper; None for others.
    training: how it was trained, as far as its name says.
  """

  name: str
  url: str
  variant: str
  fields: Mapping[str, Any]
  mebibytes: float | None
  recipe: str = 'resmall-crop'
  crop_fraction: float = 0.875
  top1: float | None = None
  real: float | None = None
  note: str = ''
  pretrained_on: str | None = None
  training: Mapping[str, Any] = dataclasses.field(default_factory=dict, hash=False)
