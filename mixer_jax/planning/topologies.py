"""The TPU slices that can be rented: their chips, devices and names.

A device is what JAX counts as one: a core of v2 and v3, a whole chip of the later ones.
"""

import dataclasses
import math
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.parallel.chips import TPUS, TpuChip


@dataclasses.dataclass(frozen=True)
class Generation:
  """One TPU generation, as it is rented.

  Attributes:
    chip: its chip.
    layouts: chips along each axis of the slices that can be rented.
    accelerator: gcloud's name of a slice, without its number.
    number: 'cores' or 'chips': what that number counts.
    options: what the compiler needs in addition to the layout.
  """

  chip: TpuChip
  layouts: tuple[str, ...]
  accelerator: str
  number: str
  options: dict[str, Any] = dataclasses.field(default_factory=dict)


_V2 = ('2x2', '4x4', '8x8', '8x16', '16x16')
_V3 = ('2x2', '4x4', '4x8', '8x8', '8x16', '16x16', '16x32', '32x32')
_V4 = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x12'),
  *('8x8x16', '8x16x16'),
)
_V5E = ('1x1', '2x2', '2x4', '4x4', '4x8', '8x8', '8x16', '16x16')
_V5P = (
  *('2x2x1', '2x2x2', '2x2x4', '2x4x4', '4x4x4', '4x4x8', '4x8x8', '8x8x8', '8x8x16'),
  *('8x16x16', '16x16x16', '16x16x24'),
)
_MEGACORE = {'chip_config_name': 'megacore'}  # both cores of a chip as one device, as on a real one

GENERATIONS = {
  'v2': Generation(TPUS['v2'], _V2, 'v2', 'cores'),
  'v3': Generation(TPUS['v3'], _V3, 'v3', 'cores'),
  'v4': Generation(TPUS['v4'], _V4, 'v4', 'cores', _MEGACORE),
  'v5e': Generation(TPUS['v5e'], _V5E, 'v5litepod', 'chips'),
  'v5p': Generation(TPUS['v5p'], _V5P, 'v5p', 'cores'),
  'v6e': Generation(TPUS['v6e'], _V5E, 'v6e', 'chips'),
}

_CORES_PER_CHIP = 2  # where gcloud's number counts cores


@dataclasses.dataclass(frozen=True)
class Topology:
  """A slice, such as v3:4x4: sixteen chips, 32 devices on four hosts."""

  name: str
  generation: Generation
  chips: int

  @property
  def chip(self) -> TpuChip:
    """The chip of its generation."""
    return self.generation.chip

  @property
  def devices(self) -> int:
    """Number of JAX devices."""
    return self.chips * self.chip.devices

  @property
  def accelerator(self) -> str:
    """The name that gcloud uses, such as v3-32."""
    cores = _CORES_PER_CHIP if self.generation.number == 'cores' else 1
    return f'{self.generation.accelerator}-{self.chips * cores}'

  @property
  def options(self) -> dict[str, Any]:
    """Arguments of `jax.experimental.topologies.get_topology_desc` in addition to its name."""
    options = dict(self.generation.options)
    layout = self.name.partition(':')[2]
    if layout in ('1x1', '2x4'):  # one host, of one chip and of eight, instead of four
      options['chips_per_host_bounds'] = (*map(int, layout.split('x')), 1)
    return options


def find(name: str) -> Topology:
  """Return the slice of this name: GENERATION:LAYOUT, or gcloud's, such as v3-32.

  Raises:
    UserError: there is no such slice; the known ones are listed.
  """
  for known in _ALL:
    if name == known.accelerator:
      return known
  kind, _, layout = name.partition(':')
  generation = GENERATIONS.get(kind)
  if generation is None:
    family = name.rpartition('-')[0]
    sizes = ', '.join(one.accelerator for one in _ALL if one.generation.accelerator == family)
    if sizes:
      raise UserError(f'no topology {name!r}: there are {sizes}')
    raise UserError(
      f'no topology {name!r}: a TPU is one of {", ".join(GENERATIONS)}, as in v3:4x4 or v3-32'
    )
  if layout not in generation.layouts:
    known = ', '.join(f'{kind}:{other}' for other in generation.layouts)
    raise UserError(f'no topology {name!r}: there are {known}')
  return _topology(kind, layout)


def _topology(kind: str, layout: str) -> Topology:
  return Topology(f'{kind}:{layout}', GENERATIONS[kind], math.prod(map(int, layout.split('x'))))


_ALL = [_topology(kind, layout) for kind in GENERATIONS for layout in GENERATIONS[kind].layouts]
