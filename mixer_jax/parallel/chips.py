"""TPU chips: memory and peak rates of what JAX counts as one device.

A device is a core of v2 and v3, and a whole chip of the later generations.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TpuChip:
  """One TPU generation.

  Attributes:
    devices: JAX devices per chip.
    memory: bytes per device that the compiler (libtpu 0.0.42) gives to programs.
    peak: bfloat16 FLOP/s per device: the chip's, from the documentation of Cloud TPU, over its
      devices.
    bandwidth: bytes/s between a device and its memory, from the same documentation.
  """

  devices: int
  memory: float
  peak: float
  bandwidth: float


TPUS = {
  'v2': TpuChip(2, 7.48 * GIB, 22.5e12, 350e9),
  'v3': TpuChip(2, 15.48 * GIB, 61.5e12, 450e9),
  'v4': TpuChip(1, 30.75 * GIB, 275e12, 1200e9),
  'v5e': TpuChip(1, 15.75 * GIB, 197e12, 819e9),
  'v5p': TpuChip(1, 95.74 * GIB, 459e12, 2765e9),
  'v6e': TpuChip(1, 31.25 * GIB, 918e12, 1640e9),
}
"""Generation -> its chip."""
