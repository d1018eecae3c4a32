"""The images/s that each host of a slice must and can deliver to its devices."""

import dataclasses
import json
import logging
import math
from typing import Any

from mixer_jax.data.data_config import DataConfig
from mixer_jax.errors import UserError
from mixer_jax.paths import user_path
from mixer_jax.planning.topologies import Topology
from mixer_jax.storage import NOT_THERE, read_file

log = logging.getLogger(__name__)

_PAIR = 1.25
"""Work of the two hyperthreads of a core, both busy, over that of one alone. Decoding JPEGs gains
1.2 to 1.3; that of the hosts was not measured."""


@dataclasses.dataclass(frozen=True)
class InputRate:
  """CPU time that the input takes per image, as `mixer-jax bench --what=input` measures it.

  Attributes:
    cpu_seconds: of all processes of a host together.
    feeding_seconds: of the process that feeds the devices, a part of `cpu_seconds`. Python's lock
      keeps it on one thread: it limits the host, whatever its number of threads.
    thread_share: work of a hardware thread of a busy host, as a share of that of the threads that
      were measured.
    source: where this was measured, for the reader.
    remedies: what would save CPU time.
  """

  cpu_seconds: float
  feeding_seconds: float
  thread_share: float
  source: str
  remedies: tuple[str, ...] = ()

  def of_host(self, threads: int) -> float:
    """Return the images/s that a host with this number of hardware threads can deliver."""
    return self.thread_share * min(threads / self.cpu_seconds, 1 / self.feeding_seconds)

  def remedies_of_host(self, threads: int) -> tuple[str, ...]:
    """Return what would let a host with this number of hardware threads deliver more."""
    if threads / self.cpu_seconds > 1 / self.feeding_seconds:
      return ('hosts with fewer chips each: their feeding process is the limit',)
    return (*self.remedies, 'hosts with more hardware threads per chip')


# Measured by benchmarks/host_input.py on an AMD EPYC (Zen 4), for JPEGs of 500 × 375 pixels and
# 55 KB with crop and flip: a fit of benchmarks/results/host_input.json.
_FIXED = 1.11e-3  # seconds per image: read, decode, draw
_PER_PIXEL = 3.5e-9  # seconds per pixel of the resized image: resize, flip, copy
_PER_LAYER_AND_PIXEL = 3.5e-9  # likewise, per layer of RandAugment
_FEEDING = 18e-6  # seconds per image, in the process that feeds the devices


def built_in(data: DataConfig, image_size: int) -> InputRate:
  """Return the rate of this recipe on photographs of the usual size of ImageNet's.

  Args:
    image_size: of the model, pixels.
  """
  pixels = data.resized_side(image_size) ** 2
  seconds = _FIXED + pixels * (_PER_PIXEL + data.randaugment_layers * _PER_LAYER_AND_PIXEL)
  return InputRate(
    seconds + _FEEDING,
    _FEEDING,
    _PAIR / 2,
    f'built-in rate, {1000 * seconds:.2f} ms per JPEG of 500 × 375 on an AMD EPYC core (Zen 4); '
    f'two hyperthreads are taken as {_PAIR} cores; --input takes what bench measured on a host',
    _remedies(data),
  )


def measured(file: str, data: DataConfig, image_size: int) -> InputRate:
  """Return the rate in the JSON file of `mixer-jax bench --what=input`.

  A rate of other data or of another recipe is used, with a warning.

  Raises:
    UserError: there is no such file, or nothing was measured in it.
    StorageError: it cannot be read now.
  """
  try:
    text = read_file(user_path(file))
  except NOT_THERE as error:
    raise UserError(f'no file {file}: write it with bench --what=input --json={file}') from error
  try:
    row = json.loads(text)['parts']['input']
    seconds, feeding = float(row['cpu_seconds_per_image']), float(row['feeding_seconds_per_image'])
    recipe, device = dict(row['recipe']), str(row['cpu'])
    cores, per_core = int(row['cores']), int(row['threads_per_core'])
    if not 0 < feeding <= seconds < math.inf:
      raise ValueError
  except (ValueError, KeyError, TypeError, RecursionError) as error:
    raise UserError(
      f'{file} has no CPU time of the input: write it with bench --what=input --json={file}, on '
      'Linux'
    ) from error
  planned = {**vars(data), 'image_size': image_size}
  for name, value in recipe.items():
    if value != planned.get(name, value):
      log.warning(
        '%s was measured with %s=%s, and the config has %s', file, name, value, planned[name]
      )
  is_shared = per_core > 1  # both hyperthreads of a core were busy when it was measured
  taken = '' if is_shared else f'; two hyperthreads are taken as {_PAIR} cores'
  return InputRate(
    seconds,
    feeding,
    1.0 if is_shared else _PAIR / 2,
    f'{file}, {1000 * seconds:.2f} ms per image on {cores} hardware threads of {device}{taken}',
    _remedies(data),
  )


def _remedies(data: DataConfig) -> tuple[str, ...]:
  found = []
  if data.decode_scale != 'auto':
    found.append('config.data.decode_scale=auto (large photographs)')
  if data.randaugment_layers:
    found.append('fewer config.data.randaugment_layers')
  return (*found, 'smaller images in the data set')


def report(
  rate: InputRate, topology: Topology, batch_size: int, steps: int, step_seconds: float
) -> dict[str, Any]:
  """Return what the hosts must and can deliver, and the time of the run if they cannot.

  Args:
    step_seconds: estimated time of an update that waits for no input.
  """
  per_host = batch_size / topology.hosts
  possible = rate.of_host(topology.host_threads)
  seconds = max(step_seconds, per_host / possible)
  hours = seconds * steps / 3600
  return {
    'hosts': topology.hosts,
    'hardware_threads_per_host': topology.host_threads,
    'needed_images_per_second_per_host': per_host / step_seconds,
    'possible_images_per_second_per_host': possible,
    'keeps_up': seconds == step_seconds,
    'step_seconds': seconds,
    'hours': hours,
    'core_days': hours * topology.devices / 24,
    'cpu_seconds_per_image': rate.cpu_seconds,
    'feeding_seconds_per_image': rate.feeding_seconds,
    'source': rate.source,
    'remedies': list(rate.remedies_of_host(topology.host_threads)),
  }
