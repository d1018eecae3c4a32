"""Settings of a benchmark: which model, which parts of it, how often; imports nothing heavy."""

import dataclasses
import math
import os
from typing import TYPE_CHECKING

from mixer_jax.errors import UserError

if TYPE_CHECKING:
  from jax.sharding import Mesh

  from mixer_jax.models import ModelConfig
  from mixer_jax.runs.run_config import RunConfig

PARTS = ('forward', 'train', 'loop', 'input', 'evaluate', 'checkpoint', 'cka')
"""Names of the parts that can be measured."""

_MOST = {'batch_size': 2**20, 'rounds': 1000, 'steps_per_round': 10**6}


@dataclasses.dataclass(frozen=True)
class BenchSettings:
  """Model, parts and effort of a benchmark.

  Attributes:
    model: config of the model.
    parts: names from `PARTS`, in the order of measurement.
    dtype: dtype of activations; None: the model's own; 'auto': bfloat16, on CPUs float32.
    batch_size: images over all devices; None: the fastest that fits, searched for each part; for
      `input` 256 per process.
    peak: FLOP/s per device, for the MFU; None: from the data sheet, where the device is known.
    rounds: number of timed rounds; medians are reported.
    steps_per_round: None: as many as fill a second.
    folder: where checkpoints are written; None: the system's temporary folder.
    mesh: the devices to run on; None: all devices of all processes, which split the batch.
    experiment: whose images and recipe `input` reads, and whose optimizer and loss `train` has;
      None: photographs, and the paper's.

  Raises:
    UserError: a value is out of its bounds.
  """

  model: 'ModelConfig'
  parts: tuple[str, ...] = ('forward', 'train')
  dtype: str | None = None
  batch_size: int | None = None
  peak: float | None = None
  rounds: int = 7
  steps_per_round: int | None = None
  folder: str | None = None
  mesh: 'Mesh | None' = None
  experiment: 'RunConfig | None' = None

  def __post_init__(self):
    if not self.parts:
      raise UserError(f'no parts to measure: name some of {", ".join(PARTS)}')
    for part in self.parts:
      if part not in PARTS:
        raise UserError(f'part {part!r} is not one of {", ".join(PARTS)}')
    if self.dtype not in (None, 'auto'):
      dataclasses.replace(self.model, dtype=self.dtype)
    for name, most in _MOST.items():
      value = getattr(self, name)
      if value is None and name != 'rounds':
        continue
      if type(value) is not int or not 1 <= value <= most:
        raise UserError(f'{name} must be a whole number in 1..{most}, is {value!r}')
    if self.peak is not None and not 0 < self.peak < math.inf:
      raise UserError(f'peak must be more than 0 FLOP/s per device, is {self.peak!r}')
    if self.folder is not None and not os.path.isdir(self.folder):
      raise UserError(f'{self.folder} is not a folder: create it first')
