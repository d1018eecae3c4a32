"""The programs that are measured, and what is told of each."""

import dataclasses
import functools
import statistics
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from mixer_jax import models
from mixer_jax.bench import measure
from mixer_jax.bench.measure import Multiply
from mixer_jax.parallel import mesh as meshes
from mixer_jax.parallel import processes
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function of (weights, batch).

  Attributes:
    weights: makes the first argument on the mesh.
    abstract: the shapes and shardings of the first argument.
    flops: the model's count an image.
    carries: whether the first argument is donated, and comes back as the first result.
    masked: whether its batches have a mask and an index.
  """

  function: Any
  weights: Callable[[], Any]
  abstract: Any
  flops: int
  carries: bool = False
  masked: bool = False


def forward(model: models.ModelConfig, mesh: Mesh) -> Program:
  """Images -> logits."""
  return of_params(model, mesh, lambda params, batch: models.apply(model, params, batch['image']))


def of_params(model, mesh: Mesh, function: Callable[[dict, steps.Batch], Any], **more) -> Program:
  """A function of (params, batch) with a forward pass in it; jitted unless it is so already."""
  shapes = models.shapes(model)
  out = meshes.shardings(mesh, shapes)
  abstract = jax.tree.map(_like, shapes, out)
  init = jax.jit(functools.partial(models.init, model), out_shardings=out)
  jitted = function if hasattr(function, 'lower') else jax.jit(function)
  weights = lambda: init(jax.random.key(0))
  return Program(jitted, weights, abstract, models.forward_flops(model), **more)


def training(model, mesh: Mesh, optimizer_config: OptimizerConfig, loss: str) -> Program:
  """The training step of `mixer-jax train`, with plain batches."""
  schedule = make_schedule(optimizer_config, total_steps=10**6)
  optimizer = make_optimizer(optimizer_config, schedule)
  return Program(
    steps.make_train_step(model, optimizer, schedule, mesh, loss=loss),
    lambda: steps.init_state(model, optimizer, mesh, seed=0),
    steps.abstract_state(model, optimizer, mesh),
    3 * models.forward_flops(model),  # the backward pass multiplies twice as much
    carries=True,
  )


def _like(leaf, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def batch_shapes(program: Program, model, mesh: Mesh, size: int) -> dict[str, Any]:
  """The batch that the program takes, `size` images over all devices."""
  rows = {
    'image': ((size, model.image_size, model.image_size, 3), 'uint8'),
    'label': ((size,), 'int32'),
  }
  if program.masked:
    rows |= {'mask': ((size,), 'bool'), 'index': ((size,), 'int32')}
  sharding = meshes.batch_sharding(mesh)
  return {
    name: jax.ShapeDtypeStruct(shape, jnp.dtype(dtype), sharding=sharding)
    for name, (shape, dtype) in rows.items()
  }


def batch(shapes: dict[str, Any], classes: int) -> steps.Batch:
  """Random pixels and labels, made on the devices; every row counts."""

  def make(key):
    made = {
      'image': jax.random.bits(key, shapes['image'].shape, 'uint8'),
      'label': jax.random.randint(key, shapes['label'].shape, 0, classes),
    }
    if 'mask' in shapes:
      size = shapes['mask'].shape[0]
      made |= {'mask': jnp.ones(size, bool), 'index': jnp.arange(size, dtype='int32')}
    return made

  out = {name: like.sharding for name, like in shapes.items()}
  return jax.jit(make, out_shardings=out)(jax.random.key(1))


class Fed:
  """A program compiled for a batch size, with arguments for it: `fed()` dispatches a step.

  Raises:
    DoesNotFitError: the devices have not the memory.
  """

  def __init__(self, program: Program, model, mesh: Mesh, size: int):
    self.program, self.size = program, size
    self.shapes = (program.abstract, batch_shapes(program, model, mesh, size))
    self.compiled = measure.compiled(program.function, self.shapes)
    with measure.out_of_memory_told():
      self.batch = batch(self.shapes[1], model.num_classes)
      self.weights = program.weights()
      jax.block_until_ready(self())  # to see whether it runs

  def __call__(self) -> Any:
    result = self.compiled(self.weights, self.batch)
    if self.program.carries:
      self.weights, result = result
    return result

  def rate(self, seconds: float) -> float:
    """Images/s, in about so many seconds; the same in all processes."""
    times = measure.repeats(measure.repeated(self, 1), seconds)
    times = round(processes.agreed(times))
    work = measure.repeated(self, times)
    (taken,) = measure.interleaved({'': work}, 1)['']
    return processes.agreed(times * self.size / taken)


def told(
  fed: Fed, multiply: Multiply, peak: float | None, *, rounds: int, steps_a_round: int | None
) -> dict[str, Any]:
  """Everything about one program: a row of the report, without its name.

  Args:
    peak: FLOP/s a device.
    steps_a_round: None: as many as fill a second.
  """
  with measure.out_of_memory_told():
    times = steps_a_round or measure.repeats(measure.repeated(fed, 1), 1.0)
    times = round(processes.agreed(times))
    multiplies = round(processes.agreed(measure.repeats(measure.repeated(multiply, 1), 0.3)))
    works = {
      'step': measure.repeated(fed, times),
      'multiply': measure.repeated(multiply, multiplies),
    }
    seconds = measure.interleaved(works, rounds)
  step, least, most = (value / times for value in measure.spread(seconds['step']))
  devices = jax.device_count()
  model_flops = fed.program.flops * fed.size
  reached = model_flops / devices / step  # FLOP/s of a device
  rate = multiply.flops * multiplies / statistics.median(seconds['multiply'])
  share = measure.ratio(seconds['multiply'], seconds['step'])  # of rounds, so that drift cancels
  share *= model_flops / devices * times / (multiply.flops * multiplies)
  peak_bytes, holder = measure.peak_bytes()
  return {
    'batch_size': fed.size,
    'images_per_second': fed.size / step,
    'images_per_second_per_device': fed.size / step / devices,
    'step_seconds': step,
    'step_seconds_range': [least, most],
    'rounds': rounds,
    'steps_a_round': times,
    'flops': {'model': model_flops, 'compiler': measure.program_flops(fed.compiled)},
    'mfu': peak and reached / peak,
    'share_of_multiply': share,
    'multiply_flops_per_second': rate,
    'program_bytes_per_device': measure.program_bytes(fed.compiled),
    'peak_bytes': peak_bytes,
    'peak_bytes_of': holder,
    'compile_seconds': dataclasses.asdict(measure.compilation(fed.program.function, fed.shapes)),
  }
