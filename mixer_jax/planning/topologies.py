"""The TPU slices that can be rented: their chips, devices, hosts and names.

A device is what JAX counts as one: a core of v2 and v3, a whole chip of the later ones.
"""

import dataclasses
import difflib
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
    host_threads: chips per host -> hardware threads (vCPUs) of the host.
    options: what the compiler needs in addition to the layout.
  """

  chip: TpuChip
  layouts: tuple[str, ...]
  accelerator: str
  number: str
  host_threads: dict[int, int]
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

# Hardware threads per host, from docs.cloud.google.com/tpu/docs: v5e and v6e ("VM types"), v5p
# ("Number of vCPUs"). For v3 and v4 from the machine types ct3-hightpu-4t and ct4p-hightpu-4t in
# the source of Google's cluster autoscaler. Its nodes of v3 slices with several hosts
# (ct3p-hightpu-4t) have 48 threads; this is about TPU VMs, whose hosts all have 96. No document
# lists v2: its TPU VMs have the threads of v3.
GENERATIONS = {
  'v2': Generation(TPUS['v2'], _V2, 'v2', 'cores', {4: 96}),
  'v3': Generation(TPUS['v3'], _V3, 'v3', 'cores', {4: 96}),
  'v4': Generation(TPUS['v4'], _V4, 'v4', 'cores', {4: 240}, _MEGACORE),
  'v5e': Generation(TPUS['v5e'], _V5E, 'v5litepod', 'chips', {1: 24, 4: 112, 8: 224}),
  'v5p': Generation(TPUS['v5p'], _V5P, 'v5p', 'cores', {4: 208}),
  'v6e': Generation(TPUS['v6e'], _V5E, 'v6e', 'chips', {1: 44, 4: 180, 8: 180}),
}

_CORES_PER_CHIP = 2  # where gcloud's number counts cores
_ONE_HOST = {'1x1': 1, '2x4': 8}
"""Layouts of one host with another number of chips than four -> that number."""


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
  def chips_per_host(self) -> int:
    """Number of chips that a host feeds."""
    return _ONE_HOST.get(self.name.partition(':')[2], 4)

  @property
  def hosts(self) -> int:
    """Number of hosts, each of which runs one process."""
    return self.chips // self.chips_per_host

  @property
  def host_threads(self) -> int:
    """Number of hardware threads of a host."""
    return self.generation.host_threads[self.chips_per_host]

  @property
  def accelerator(self) -> str:
    """The name that gcloud and `launch/tpu_vm.sh` use, such as v3-32."""
    cores = _CORES_PER_CHIP if self.generation.number == 'cores' else 1
    return f'{self.generation.accelerator}-{self.chips * cores}'

  @property
  def options(self) -> dict[str, Any]:
    """Arguments of `jax.experimental.topologies.get_topology_desc` in addition to its name."""
    options = dict(self.generation.options)
    layout = self.name.partition(':')[2]
    if layout in _ONE_HOST:
      options['chips_per_host_bounds'] = (*map(int, layout.split('x')), 1)
    return options


def find(name: str) -> Topology:
  """Return the slice of this name: GENERATION:LAYOUT, or gcloud's, such as v3-32.

  The number in gcloud's name counts cores for v2, v3, v4 and v5p, and chips for v5e and v6e.

  Raises:
    UserError: there is no such slice; those of its generation, or similar ones, are listed.
  """
  if name in _BY_NAME:
    return _BY_NAME[name]
  kind, colon, _ = name.partition(':')
  if kind in GENERATIONS and (colon or kind == name):
    raise UserError(f'no topology {name!r}: there are {_listed(GENERATIONS[kind], "name")}')
  family = name.rpartition('-')[0]
  for kind, generation in GENERATIONS.items():
    if family and family in (kind, generation.accelerator):
      raise UserError(f'no topology {name!r}: there are {_listed(generation, "accelerator")}')
  near = difflib.get_close_matches(name.strip().lower(), _BY_NAME, n=2, cutoff=0.7)
  hint = f' (did you mean {" or ".join(near)}?)' if near else ''
  raise UserError(
    f'no topology {name!r}{hint}: a TPU is one of {", ".join(GENERATIONS)}, as in v3:4x4 or v3-32'
  )


def _listed(generation: Generation, attribute: str) -> str:
  own = [one for one in _ALL if one.generation is generation]
  return ', '.join(getattr(one, attribute) for one in own)


def _topology(kind: str, layout: str) -> Topology:
  return Topology(f'{kind}:{layout}', GENERATIONS[kind], math.prod(map(int, layout.split('x'))))


_ALL = [_topology(kind, layout) for kind in GENERATIONS for layout in GENERATIONS[kind].layouts]
_BY_NAME = {name: one for one in _ALL for name in (one.name, one.accelerator)}
