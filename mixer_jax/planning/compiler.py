"""Compilation of a training step and an evaluation step for a TPU slice, without the slice.

`compile_program` compiles in a separate process, `python -m mixer_jax.planning.compiler`:
libtpu needs its environment set before it is loaded, writes to stderr, and cannot be
interrupted.
"""

import dataclasses
import importlib.util
import json
import os
import re
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from mixer_jax.errors import UserError
from mixer_jax.evaluation import classify
from mixer_jax.models import ModelConfig, config_from, family
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel.compiled import abstract_batch, temporary_bytes
from mixer_jax.planning import collectives, topologies
from mixer_jax.training import step as steps
from mixer_jax.training.mixup import MixupConfig
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from mixer_jax.training.sam import make_sam


@dataclasses.dataclass(frozen=True)
class Program:
  """The steps that are compiled, and the slice that they are compiled for.

  Attributes:
    topology: name of the slice, such as v3:4x4.
    mesh: sizes of the mesh's axes.
    batch_size: images per update, over all devices.
    eval_batch_size: images per evaluation batch, over all devices; 0: no evaluation step.
    eval_level: dtype of the images in an evaluation.
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
  """The compiler's numbers of one program, per device.

  Attributes:
    seconds: time of the compilation.
    temporaries: bytes in addition to the arguments; None where the program does not fit.
    needed: total bytes according to the compiler where the program does not fit; else None.
    flops, bytes_accessed: per run; micro-batches are counted as often as they run, and the
      update with them.
    optimal_seconds: the compiler's estimate of the time of a run; None: it has none.
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
  """The compiler's numbers of a `Program`.

  Attributes:
    parameters, optimizer, batch: bytes per device that the arguments of a training step take.
  """

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
  'TPU_ACCELERATOR_TYPE': 'v3-8',  # required, without effect: the topology is named
  'TPU_LOG_DIR': 'disabled',
  'TPU_MIN_LOG_LEVEL': '3',
  'TPU_STDERR_LOG_LEVEL': '3',
}
"""Environment of a process that loads libtpu for its compiler only, and without its output."""


def compile_program(program: Program, waiting: Callable[[str, float], None]) -> Facts:
  """Compile a program with the TPU compiler.

  Args:
    waiting: called a few times per second with the step that is compiled, 'training' or
      'evaluation', and the seconds since the start.

  Raises:
    UserError: the TPU compiler is not installed, or there is too little memory for it.
  """
  if importlib.util.find_spec('libtpu') is None:
    raise UserError(
      "the TPU compiler is not installed: pip install 'mixer_jax[tpu]' (Linux x86-64 only)"
    )
  command = [sys.executable, '-m', 'mixer_jax.planning.compiler']
  places = [*sys.path, *family.added_folders()]
  begun = time.monotonic()
  with (
    tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace') as errors,
    subprocess.Popen(
      command,
      env={**os.environ, **ENVIRONMENT, 'PYTHONPATH': os.pathsep.join(filter(None, places))},
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
      step, answer, is_open = 'training', '', True
      while is_open:
        waiting(step, time.monotonic() - begun)
        if select.select([child.stdout], [], [], 0.2)[0]:
          line = child.stdout.readline()
          is_open = bool(line)
          if line.startswith('{'):  # the facts; before it, the step that is next
            answer = line
          else:
            step = line.strip() or step
      child.wait()
    finally:  # also where the user interrupts
      child.kill()
    if child.returncode < 0:
      reason = ', most likely because the host is out of memory' if child.returncode == -9 else ''
      raise UserError(
        f'the TPU compiler was killed by signal {-child.returncode}{reason}: try again'
      )
    if child.returncode:
      errors.seek(0)
      raise RuntimeError(f'the TPU compiler failed: {errors.read()[-4000:]}')
  return facts_from(json.loads(answer))


def facts_from(fields: dict[str, Any]) -> Facts:
  """Return the facts that `dataclasses.asdict` made these fields of."""
  evaluation = fields['evaluation'] and Compiled(**fields['evaluation'])
  return Facts(**{**fields, 'step': Compiled(**fields['step']), 'evaluation': evaluation})


def _program_from(fields: dict[str, Any]) -> Program:
  for name, module in fields.pop('families').items():
    family.register(name, module)
  typed = {
    'mesh': tuple(fields['mesh']),
    'model': config_from(fields['model']),
    'optimizer': OptimizerConfig(**fields['optimizer']),
    'mixup': MixupConfig(**fields['mixup']),
  }
  return Program(**{**fields, **typed})


def _compile_here(program: Program) -> Facts:
  """Compile in this process, which has the environment for libtpu; prints when a step is next."""
  from jax.experimental import topologies as slices

  topology = topologies.find(program.topology)
  devices = slices.get_topology_desc(program.topology, 'tpu', **topology.options).devices
  mesh = meshes.make_mesh(*program.mesh, devices=devices)
  schedule = make_schedule(program.optimizer, program.total_steps)
  optimizer = make_optimizer(program.optimizer, schedule)
  state = steps.abstract_state(program.model, optimizer, mesh)
  size = program.model.image_size
  batch = abstract_batch(mesh, program.batch_size, size)
  train_step = steps.make_train_step(
    program.model,
    optimizer,
    schedule,
    mesh,
    loss=program.loss,
    accumulate=program.accumulate,
    mixup=program.mixup,
    sam=make_sam(program.optimizer, schedule),
  )
  step = _compiled(train_step, (state, batch), program.accumulate)
  evaluation = None
  if program.eval_batch_size and step.needed is None:
    print('evaluation', flush=True)
    images = abstract_batch(
      mesh, program.eval_batch_size, size, level=program.eval_level, masked=True
    )
    eval_step = classify.make_eval_step(program.model, mesh, loss=program.loss)
    evaluation = _compiled(eval_step, (state.weights, images), 1)
  return Facts(
    devices=len(devices),
    processes=len({device.process_index for device in devices}),
    parameters=_held(state.weights),
    optimizer=_held((state.opt_state, state.step)),
    batch=_held(batch),
    step=step,
    evaluation=evaluation,
  )


def _held(tree) -> int:
  """Return the bytes that one device holds of these arrays."""
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
  cost = compiled.cost_analysis()
  optimal = cost.get('optimal_seconds', -1.0)  # negative on some generations
  return Compiled(
    seconds,
    temporaries=temporary_bytes(compiled),
    flops=cost['flops'] * times,
    bytes_accessed=cost['bytes accessed'] * times,
    optimal_seconds=optimal * times if optimal > 0 else None,
    collectives=collectives.collectives(hlo),
  )


_UNITS = {'': 1, 'K': 2**10, 'M': 2**20, 'G': 2**30, 'T': 2**40}


def _needed(message: str) -> float:
  """Return the bytes that a program needs, from the message of the compiler."""
  match = re.search(r'\(([\d.]+)([KMGT]?)\) exceeds|Used ([\d.]+)([KMGT]?) of', message)
  if not match:
    raise RuntimeError(f'unknown message of the TPU compiler: {message[:2000]}')
  number, unit = match.group(1, 2) if match[1] else match.group(3, 4)
  return float(number) * _UNITS[unit]


def main() -> None:
  """Read a program as a line of JSON and write its facts as one; exit when the parent does."""
  program = _program_from(json.loads(sys.stdin.readline()))
  threading.Thread(target=lambda: (sys.stdin.read(), os._exit(1)), daemon=True).start()
  print(json.dumps(dataclasses.asdict(_compile_here(program))), flush=True)
  os._exit(0)  # libtpu has threads that need not be waited for


if __name__ == '__main__':
  main()
