"""A training step and an evaluation step, compiled for a TPU slice that is not here.

`compile_program` does it in a process of its own, `python -m mixer_jax.planning.compiler`:
libtpu wants its environment set before it is loaded, talks on stderr, and cannot be
interrupted.
"""

import dataclasses
import importlib.util
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import ModelConfig, config_from, family
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning import collectives, topologies
from mixer_jax.training import step as steps
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Program:
  """What is compiled, and for what.

  Attributes:
    topology: such as v3:4x4.
    mesh: sizes of its axes.
    batch_size: images an update, over all devices; `eval_batch_size` likewise, and 0
      for no evaluation step.
    eval_level: dtype of the evaluation's images.
  """

  topology: str
  mesh: tuple[int, int, int]
  model: ModelConfig
  optimizer: OptimizerConfig
  total_steps: int
  loss: str
  batch_size: int
  accumulate: int
  mixup: MixupConfig
  eval_batch_size: int
  eval_level: str


@dataclasses.dataclass(frozen=True)
class Compiled:
  """What the compiler tells of one program, a device.

  Attributes:
    seconds: that it took to compile.
    temporaries: bytes beside the arguments; None where it does not fit.
    needed: bytes in all, as far as the compiler says, where it does not fit; else None.
    flops, bytes_accessed: of a run; micro-batches are counted as often as they run, and
      the update with them.
    optimal_seconds: the compiler's estimate of a run's time; None where it has none.
    collectives: kind -> {'count', 'bytes'}.
  """

  seconds: float
  temporaries: int | None = None
  needed: float | None = None
  flops: float = 0.0
  bytes_accessed: float = 0.0
  optimal_seconds: float | None = None
  collectives: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Facts:
  """`parameters`, `optimizer` and `batch` are bytes that a device holds of a training step."""

  devices: int
  processes: int
  parameters: int
  optimizer: int
  batch: int
  step: Compiled
  evaluation: Compiled | None


ENVIRONMENT = {
  'JAX_PLATFORMS': 'cpu',  # the compiler needs no TPU, and must not take one that is here
  'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
  'TPU_SKIP_MDS_QUERY': '1',
  'TPU_WORKER_HOSTNAMES': 'localhost',
  'TPU_WORKER_ID': '0',
  'TPU_ACCELERATOR_TYPE': 'v3-8',  # asked for, and of no consequence: the topology is named
  'TPU_LOG_DIR': 'disabled',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
}
"""Of a process that loads libtpu for its compiler, and wants it to keep still."""


def compile_program(program: Program, waiting: Callable[[float], None]) -> Facts:
  """What the TPU compiler says of a program; `waiting` is called with the seconds it takes.

  Raises:
    UserError: there is no TPU compiler here, or not memory enough for it.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      "the TPU compiler is not installed: pip install 'mixer_jax[tpu]' (Linux x86-64 only)"
    )
  command = [sys.executable, '-m', 'mixer_jax.planning.compiler']
  begun = time.monotonic()
  with (
    tempfile.TemporaryFile('w+') as errors,
    subprocess.Popen(
      command,
      env={**os.environ, **ENVIRONMENT, 'PYTHONPATH': os.pathsep.join(filter(None, sys.path))},
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      stderr=errors,
      text=True,
    ) as child,
  ):
    assert child.stdin
    assert child.stdout
    try:
      child.stdin.write(
        json.dumps({**dataclasses.asdict(program), 'families': family.added()}) + '\n'
      )
      child.stdin.flush()
      while child.poll() is None:
        waiting(time.monotonic() - begun)
        time.sleep(0.2)
      told = child.stdout.read()
    finally:  # also where the user interrupts
      child.kill()
    if child.returncode < 0:
      reason = ', most likely for want of memory' if child.returncode == -9 else ''
      raise UserError(
        f'the TPU compiler was ended by signal {-child.returncode}{reason}: try again'
      )
    if child.returncode:
      errors.seek(0)
      raise RuntimeError(f'the TPU compiler failed: {errors.read()[-4000:]}')
  return facts_from(json.loads(told))


def facts_from(told: dict[str, Any]) -> Facts:
  """Facts of what `dataclasses.asdict` made of them."""
  evaluation = told['evaluation'] and Compiled(**told['evaluation'])
  return Facts(**{**told, 'step': Compiled(**told['step']), 'evaluation': evaluation})


def _program(told: dict[str, Any]) -> Program:
  for name, module in told.pop('families').items():
    family.register(name, module)
  model, optimizer = config_from(told['model']), OptimizerConfig(**told['optimizer'])
  typed = {'mesh': tuple(told['mesh']), 'model': model, 'optimizer': optimizer}
  return Program(**{**told, **typed, 'mixup': MixupConfig(**told['mixup'])})


def _compile_here(program: Program) -> Facts:
  """In a process with libtpu's environment."""
  from jax.experimental import topologies as slices

  topology = topologies.find(program.topology)
  devices = slices.get_topology_desc(program.topology, 'tpu', **topology.options).devices
  mesh = meshes.make_mesh(*program.mesh, devices=devices)
  schedule = make_schedule(program.optimizer, program.total_steps)
  optimizer = make_optimizer(program.optimizer, schedule)
  state = steps.abstract_state(program.model, optimizer, mesh)
  batch = _batch(program.model, mesh, program.batch_size, 'uint8')
  train_step = steps.make_train_step(
    program.model,
    optimizer,
    schedule,
    mesh,
    loss=program.loss,
    accumulate=program.accumulate,
    mixup=program.mixup,
  )
  step = _compiled(train_step, (state, batch), program.accumulate)
  evaluation = None
  if program.eval_batch_size and step.needed is None:
    seen = _batch(program.model, mesh, program.eval_batch_size, program.eval_level)
    seen['mask'] = _rows(mesh, (program.eval_batch_size,), 'bool')
    seen['index'] = _rows(mesh, (program.eval_batch_size,), 'int32')
    evaluation = _compiled(classify.make_eval_step(program.model, mesh), (state.weights, seen), 1)
  return Facts(
    devices=len(devices),
    processes=len({device.process_index for device in devices}),
    parameters=_held(state.weights),
    optimizer=_held((state.opt_state, state.step)),
    batch=_held(batch),
    step=step,
    evaluation=evaluation,
  )


def _batch(model: ModelConfig, mesh, size: int, level: str) -> dict[str, jax.ShapeDtypeStruct]:
  image = (size, model.image_size, model.image_size, 3)
  return {'image': _rows(mesh, image, level), 'label': _rows(mesh, (size,), 'int32')}


def _rows(mesh, shape: tuple[int, ...], dtype: str) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=meshes.batch_sharding(mesh))


def _held(tree) -> int:
  """Bytes that one device holds of these arrays."""
  shards = [(leaf.sharding.shard_shape(leaf.shape), leaf.dtype) for leaf in jax.tree.leaves(tree)]
  return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in shards)


def _compiled(step, arguments: tuple, accumulate: int) -> Compiled:
  begun = time.monotonic()
  try:
    compiled = step.trace(*arguments).lower(lowering_platforms=('tpu',)).compile()
  except jax.errors.JaxRuntimeError as error:
    if 'RESOURCE_EXHAUSTED' not in str(error):
      raise
    return Compiled(time.monotonic() - begun, needed=_needed(str(error)))
  seconds = time.monotonic() - begun
  hlo = compiled.as_text() or ''
  # The compiler counts the body of a loop once.
  times = accumulate if accumulate in collectives.loops(hlo) else 1
  memory, cost = compiled.memory_analysis(), compiled.cost_analysis()
  optimal = cost.get('optimal_seconds', -1.0)  # it is negative on some generations
  return Compiled(
    seconds,
    temporaries=memory.temp_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes,
    flops=cost['flops'] * times,
    bytes_accessed=cost['bytes accessed'] * times,
    optimal_seconds=optimal * times if optimal > 0 else None,
    collectives=collectives.collectives(hlo),
  )


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def _needed(message: str) -> float:
  """Bytes that the compiler says a program would take."""
  match = re.search(r'\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of', message)
  if not match:
    raise RuntimeError(f'the TPU compiler says what nobody here understands: {message[:2000]}')
  number, unit = match.group(1, 2) if match[1] else match.group(3, 4)
  return float(number) * _UNITS[unit]


def main() -> None:
  """Reads a program as a line of JSON, writes facts; ends where the one who asked has."""
  program = _program(json.loads(sys.stdin.readline()))
  threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
  json.dump(dataclasses.asdict(_compile_here(program)), sys.stdout)
  sys.stdout.flush()
  os._exit(0)  # libtpu has threads that nobody need wait for


if __name__ == '__main__':
  main()
