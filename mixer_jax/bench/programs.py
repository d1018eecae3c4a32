"""The programs that are measured, and the measurements of one program."""

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
from mixer_jax.parallel import compiled, processes
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule
from mixer_jax.training.sam import make_sam


@dataclasses.dataclass(frozen=True)
class Program:
  """A jitted function of (weights, batch).

  Attributes:
    function: the jitted function.
    weights: creates the first argument on the mesh.
    abstract: shapes and shardings of the first argument.
    flops: model FLOPs per image.
    carries: whether the first argument is donated and returned as the first result.
    masked: whether its batches have a mask and an index.
  """

  function: Any
  weights: Callable[[], Any]
  abstract: Any
  flops: int
  carries: bool = False
  masked: bool = False


def forward(model: models.ModelConfig, mesh: Mesh) -> Program:
  """Return the forward pass: images -> logits."""
  return of_params(model, mesh, lambda params, batch: models.apply(model, params, batch['image']))


def of_params(model, mesh: Mesh, function: Callable[[dict, steps.Batch], Any], **more) -> Program:
  """Return the program of a function of (params, batch) that contains one forward pass.

  A function that is not jitted yet is jitted here.
  """
  shapes = models.shapes(model)
  out = meshes.shardings(mesh, shapes, model)
  abstract = jax.tree.map(_with_sharding, shapes, out)
  init = jax.jit(functools.partial(models.init, model), out_shardings=out)
  jitted = function if hasattr(function, 'lower') else jax.jit(function)
  weights = lambda: init(jax.random.key(0))
  return Program(jitted, weights, abstract, models.forward_flops(model), **more)


def training(model, mesh: Mesh, optimizer_config: OptimizerConfig, loss: str) -> Program:
  """Return the training step of `mixer-jax train`, without mixup or micro-batches."""
  schedule = make_schedule(optimizer_config, total_steps=10**6)
  optimizer = make_optimizer(optimizer_config, schedule)
  sam = make_sam(optimizer_config, schedule)
  return Program(
    steps.make_train_step(model, optimizer, schedule, mesh, loss=loss, sam=sam),
    lambda: steps.init_state(model, optimizer, mesh, seed=0),
    steps.abstract_state(model, optimizer, mesh),
    steps.flops_per_image(model, optimizer_config),
    carries=True,
  )


def _with_sharding(leaf, sharding) -> jax.ShapeDtypeStruct:
  return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def random_batch(shapes: dict[str, Any], classes: int) -> steps.Batch:
  """Generate random pixels and labels on the devices; every row counts."""

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


class LoadedProgram:
  """A program compiled for one batch size, with its arguments on the devices.

  Calling it dispatches one step.

  Raises:
    DoesNotFitError: the devices have too little memory.
  """

  def __init__(self, program: Program, model, mesh: Mesh, size: int):
    self.program, self.size, self.devices = program, size, mesh.size
    batch = compiled.abstract_batch(mesh, size, model.image_size, masked=program.masked)
    self.shapes = (program.abstract, batch)
    self.compiled = measure.compiled(program.function, self.shapes)
    with measure.out_of_memory_as_does_not_fit():
      self.batch = random_batch(batch, model.num_classes)
      self.weights = program.weights()
      jax.block_until_ready(self())  # shows whether it runs

  def __call__(self) -> Any:
    result = self.compiled(self.weights, self.batch)
    if self.program.carries:
      self.weights, result = result
    return result

  def rate(self, seconds: float) -> float:
    """Measure images/s for about `seconds`; the same result in all processes."""
    times = measure.repeats(measure.repeated(self, 1), seconds)
    times = round(processes.agreed(times))
    work = measure.repeated(self, times)
    (taken,) = measure.interleaved({'': work}, 1)['']
    return processes.agreed(times * self.size / taken)


def measured(
  loaded: LoadedProgram,
  multiply: Multiply,
  peak: float | None,
  *,
  rounds: int,
  steps_per_round: int | None,
) -> dict[str, Any]:
  """Measure one program: a row of the report, without its name.

  Args:
    peak: FLOP/s per device.
    steps_per_round: None: as many as fill a second.
  """
  with measure.out_of_memory_as_does_not_fit():
    times = steps_per_round or measure.repeats(measure.repeated(loaded, 1), 1.0)
    times = round(processes.agreed(times))
    multiplies = round(processes.agreed(measure.repeats(measure.repeated(multiply, 1), 0.3)))
    works = {
      'step': measure.repeated(loaded, times),
      'multiply': measure.repeated(multiply, multiplies),
    }
    seconds = measure.interleaved(works, rounds)
  step, least, most = (value / times for value in measure.spread(seconds['step']))
  devices = loaded.devices
  model_flops = loaded.program.flops * loaded.size
  reached = model_flops / devices / step  # FLOP/s per device
  rate = multiply.flops * multiplies / statistics.median(seconds['multiply'])
  share = measure.ratio(seconds['multiply'], seconds['step'])  # per round, so that drift cancels
  share *= model_flops / devices * times / (multiply.flops * multiplies)
  peak_bytes, holder = measure.peak_bytes()
  compilation = measure.compilation(loaded.program.function, loaded.shapes)
  return {
    'batch_size': loaded.size,
    'images_per_second': loaded.size / step,
    'images_per_second_per_device': loaded.size / step / devices,
    'step_seconds': step,
    'step_seconds_range': [least, most],
    'rounds': rounds,
    'steps_a_round': times,
    'flops': {
      'model': model_flops,
      'compiler': compiled.program_flops(loaded.compiled) * devices,
    },
    'mfu': peak and reached / peak,
    'share_of_multiply': share,
    'multiply_flops_per_second': rate,
    'program_bytes_per_device': compiled.program_bytes(loaded.compiled),
    'peak_bytes': peak_bytes,
    'peak_bytes_of': holder,
    'compile_seconds': dataclasses.asdict(compilation),
  }
