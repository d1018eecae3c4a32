"""Weights files of a model family, as its module describes them: layouts and published files."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

Rules = Sequence[tuple[re.Pattern, str]]
"""(pattern, replacement), applied in this order."""


@dataclasses.dataclass(frozen=True)
class Layout:
  """Names and axes under which the parameters of a family are stored.

  Attributes:
    name: as in `--layout`.
    suffix: of the files that are written in it; '': it is only read.
    block: matches the beginning of the stored names of a block and captures its number.
    rules: parameter name -> stored name.
    axes: parameter name -> for each stored axis, its place in the parameter; (): they are the same.
    leading_ones: arrays may have axes of size 1 before their own.
    caveat: config -> a warning for who writes it; '': none.
  """

  name: str
  suffix: str
  block: re.Pattern
  rules: Rules = ()
  axes: Callable[[str], tuple[int, ...]] = lambda name: ()
  leading_ones: bool = False
  caveat: Callable[[Any], str] = lambda config: ''

  def rename(self, name: str) -> str:
    """Parameter name -> stored name."""
    for pattern, replacement in self.rules:
      name = pattern.sub(replacement, name)
    return name

  def without_leading_ones(self, shape: tuple[int, ...], rank: int | None) -> tuple[int, ...]:
    """Return a stored shape without the leading ones that an array of this rank may have."""
    extra = len(shape) - rank if self.leading_ones and rank is not None else 0
    return shape[extra:] if extra > 0 and set(shape[:extra]) == {1} else shape

  def stored_shape(self, name: str, shape: Sequence) -> tuple:
    """Shape of a parameter -> shape of its stored array."""
    return tuple(shape[axis] for axis in self.axes(name)) or tuple(shape)

  def parameter_shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a stored array -> shape of its parameter; a shape of another rank stays as it is."""
    axes = self.axes(name)
    return tuple(shape[axis] for axis in np.argsort(axes)) if len(axes) == len(shape) else shape

  def parameter(self, name: str, array: np.ndarray) -> np.ndarray:
    """Stored array -> parameter, float32; a view where possible."""
    axes = self.axes(name)
    turned = array.transpose(np.argsort(axes)) if axes else array
    with np.errstate(over='ignore'):  # what is too large becomes infinite, and is reported
      return turned.astype(np.float32, copy=False)

  def stored(self, name: str, array: np.ndarray) -> np.ndarray:
    """Parameter -> stored array, float32 and contiguous."""
    axes = self.axes(name)
    return np.ascontiguousarray(array.transpose(axes) if axes else array, np.float32)


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
    top1: published ImageNet validation accuracy at 224 px, percent.
    real: published ImageNet ReaL accuracy, percent.
    note: anything else.
    pretrained_on: data set of a model that was trained as in the paper; None for others.
  """

  name: str
  url: str
  variant: str
  fields: Mapping[str, Any]
  mebibytes: float | None
  recipe: str = 'resmall-crop'
  top1: float | None = None
  real: float | None = None
  note: str = ''
  pretrained_on: str | None = None
