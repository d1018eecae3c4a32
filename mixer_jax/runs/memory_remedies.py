"""Changes of a config whose training step needs more memory than there is."""

import contextlib
import logging
import math
import time
from typing import NamedTuple

import jax

from mixer_jax.errors import UserError
from mixer_jax.hardware import free_memory
from mixer_jax.parallel import compiled, processes
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runs.experiment import Experiment
from mixer_jax.training import step as steps
from mixer_jax.training.sam import make_sam

log = logging.getLogger(__name__)

_MOST_PROGRAMS = 4
_SEARCH_SECONDS = 60.0  # no compilation begins after it
_SAFE = 0.9  # share of the memory; the rest is for the images that are being read


class Fit(NamedTuple):
  """A number of micro-batches with which the step fits, by the compiler's count."""

  accumulate: int
  needed: int
  """Bytes per device, likewise `room`."""
  room: int


def remedies(exp: Experiment) -> list[str]:
  """Return the changes of the config that need less memory; the first ones keep the result."""
  config, mesh, found = exp.config, exp.evaluated.mesh, []
  fit = _fit(exp) if processes.is_alone() else None
  if fit:
    gib = f'{fit.needed / 2**30:.1f} of {fit.room / 2**30:.1f} GiB'
    found.append(f'--config.accumulate={fit.accumulate} (fits, with {gib} per device)')
  else:
    with contextlib.suppress(UserError):
      meshes.check_batch(mesh, config.batch_size, 2 * config.accumulate)
      found.append(f'--config.accumulate={2 * config.accumulate}')
  if getattr(exp.model, 'remat', None) is False:  # not every family has the field
    found.append('--config.model.remat=True')
  ways = mesh.shape['data'] * mesh.shape['fsdp']
  if mesh.shape['fsdp'] < ways:
    found.append(f'--config.mesh.data=1 --config.mesh.fsdp={ways}')
  if fit and config.accumulate == 1:
    found.append(f'--config.batch_size={config.batch_size // fit.accumulate} (fits as well)')
  else:
    found.append('a smaller --config.batch_size')
  return found


def _fit(exp: Experiment) -> Fit | None:
  """Return the fewest micro-batches found that fit; None: none in the time that may be spent.

  The step that failed is compiled first, which its entry in the compilation cache makes fast. Its
  temporaries, which grow with the micro-batch, say where to look.
  """
  mesh, first = exp.evaluated.mesh, exp.config.accumulate
  share = exp.config.batch_size // (mesh.shape['data'] * mesh.shape['fsdp'])
  choices = [number for number in range(first, share + 1) if share % number == 0]
  log.info('searching for a number of micro-batches that fits: at most a few compilations')
  end, number = time.monotonic() + _SEARCH_SECONDS, first
  for _ in range(_MOST_PROGRAMS):
    room = _room(mesh)
    if number is None or room is None or time.monotonic() > end:
      return None
    needed = _needed(exp, number)
    if needed is not None and needed <= room:
      return Fit(number, needed, room) if number > first else None  # it failed for another reason
    least = number * (4 if needed is None else max(2, math.ceil(needed / room)))
    number = next((choice for choice in choices if choice >= least), None)
  return None


def _needed(exp: Experiment, accumulate: int) -> int | None:
  """Return the bytes that the step needs per device; None: it cannot be compiled."""
  config, mesh, model = exp.config, exp.evaluated.mesh, exp.model
  step = steps.make_train_step(
    model, exp.optimizer, exp.schedule, mesh,
    loss=config.loss, seed=config.seed, accumulate=accumulate, mixup=config.mixup,
    sam=make_sam(config.optimizer, exp.schedule),
  )  # fmt: skip
  state = steps.abstract_state(model, exp.optimizer, mesh)
  batch = compiled.abstract_batch(mesh, config.batch_size, model.image_size)
  try:
    program = step.lower(state, batch).compile()
  except jax.errors.JaxRuntimeError:
    return None
  return compiled.temporary_bytes(program) if _on_host(mesh) else compiled.program_bytes(program)


def _room(mesh) -> int | None:
  """Return the bytes per device that `_needed` may take; None if unknown."""
  if _on_host(mesh):  # what the state takes is taken already
    free = free_memory()
    return None if free is None else int(_SAFE * free) // len(mesh.local_devices)
  stats = mesh.local_devices[0].memory_stats() or {}
  return int(_SAFE * stats['bytes_limit']) if 'bytes_limit' in stats else None


def _on_host(mesh) -> bool:
  return mesh.local_devices[0].platform == 'cpu'
