"""The parts of `mixer-jax bench`: rooms wired together, to be measured."""

import dataclasses
import difflib
import importlib.metadata
import importlib.util
import logging
import time
from typing import Any

import jax

from mixer_jax import models
from mixer_jax.bench import batch_size, measure, peaks
from mixer_jax.bench import programs as programs
from mixer_jax.bench.programs import Fed, Program
from mixer_jax.errors import DoesNotFitError, UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog import terminal
from mixer_jax.training.optimizer import OptimizerConfig

log = logging.getLogger(__name__)

OPTIMIZER = OptimizerConfig(
  name='adam',
  learning_rate=1e-3,
  warmup_steps=10_000,
  schedule='linear',
  weight_decay=0.1,
  clip_norm=1.0,
  b1=0.9,
  b2=0.999,
  eps=1e-8,
  momentum=0.9,
)
"""The paper's, to pre-train; what it is set to costs no time."""

LAYERS = ('stem', 'block_*', 'pre_logits')
"""Those that `cka` is measured on."""

_NEEDS = {
  'loop': ('orbax.checkpoint',),
  'checkpoint': ('orbax.checkpoint',),
  'input': ('grain', 'cv2', 'PIL', 'scipy', 'simplejpeg', 'sklearn', 'etils'),
}
"""Part -> packages beside JAX, Flax, Optax and NumPy."""

_SEARCH_SECONDS = 0.5
"""For which each batch size is tried."""


def model_of(name: str, dtype: str, classes: int, image_size: int) -> models.MixerConfig:
  """The model of this name, as the flags have it.

  Raises:
    UserError: there is no such model, or none of such sizes.
  """
  variant = models.VARIANTS.get(name)
  if variant is None:
    near = difflib.get_close_matches(name, models.VARIANTS, n=1, cutoff=0.3)
    hint = f', did you mean {near[0]}?' if near else ':'
    raise UserError(f'no model {name!r}{hint} There are {", ".join(models.VARIANTS)}')
  return dataclasses.replace(variant, dtype=dtype, num_classes=classes, image_size=image_size)


def with_usual_dtype(model: models.MixerConfig) -> models.MixerConfig:
  """bfloat16, but float32 on CPUs, where the other is slow."""
  dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return dataclasses.replace(model, dtype=dtype)


class Bench:
  """What is measured of one model on the devices that there are.

  Args:
    batch_size: over all devices; None: the fastest that fits, of each part.
    peak: FLOP/s a device; None: as far as `peaks` knows.
    steps_a_round: None: as many as fill a second.
    folder: where checkpoints are written; None: a temporary one.
  """

  def __init__(
    self,
    model: models.MixerConfig,
    *,
    batch_size: int | None,
    peak: float | None,
    rounds: int,
    steps_a_round: int | None,
    folder: str | None,
  ):
    self.model, self.mesh = model, meshes.make_mesh()
    if batch_size is not None:
      meshes.check_batch(self.mesh, batch_size, name='--batch')
    self.device = jax.devices()[0].device_kind
    self.peak = peak or peaks.peak(self.device, model.dtype)
    self.rounds, self.steps_a_round, self.folder = rounds, steps_a_round, folder
    self._batch_size = batch_size
    self._sizes: dict[str, int] = {}
    self._multiply: measure.Multiply | None = None

  def subject(self) -> dict[str, Any]:
    """What is measured, on what, and when."""
    packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
    return {
      'model': models.variant_of(self.model),
      'num_parameters': models.num_params(self.model),
      'image_size': self.model.image_size,
      'num_classes': self.model.num_classes,
      'dtype': self.model.dtype,
      'device': self.device,
      'devices': jax.device_count(),
      'processes': jax.process_count(),
      'peak_flops_per_second': self.peak,
      'versions': {name: importlib.metadata.version(name) for name in packages},
      'time': time.time(),
    }

  def possible(self, parts: list[str]) -> list[str]:
    """Those of the parts for which all is installed; the others are named in the log.

    Raises:
      UserError: there is none.
    """
    left = []
    for part in parts:
      missing = [name for name in _NEEDS.get(part, ()) if not _is_installed(name)]
      if missing:
        log.warning('%s is not measured: it needs %s', part, ', '.join(missing))
      else:
        left.append(part)
    if not left:
      raise UserError(f"nothing to measure of {', '.join(parts)}: pip install 'mixer_jax'")
    return left

  def measure(self, part: str) -> dict[str, Any]:
    """One part, as a row of the report.

    Raises:
      DoesNotFitError: the batch that was asked for does not fit; the message tells which does.
    """
    return getattr(self, f'_{part}')()

  def _forward(self) -> dict[str, Any]:
    return self._told(self._fed('forward', self.forward()))

  def _train(self) -> dict[str, Any]:
    return self._told(self._fed('train', self.training()))

  def _cka(self) -> dict[str, Any]:
    from mixer_jax.analysis import cka, hsic, layers

    names = layers.choose(layers.layer_names(self.model), LAYERS)
    method = hsic.Method('linear', None, None, 'unbiased')
    step = cka.make_cka_step(self.model, names, self.mesh, method)
    program = programs.of_params(self.model, self.mesh, step, masked=True)
    return {**self._told(self._fed('cka', program)), 'layers': len(names)}

  def _loop(self) -> dict[str, Any]:
    from mixer_jax.bench import train_loop

    fed = self._fed('train', self.training())
    return train_loop.loop(self, fed)

  def _checkpoint(self) -> dict[str, Any]:
    from mixer_jax.bench import train_loop

    return train_loop.checkpoint(self, self.training())

  def _input(self) -> dict[str, Any]:
    from mixer_jax.bench import data_input

    return data_input.reading(self, self.size('forward', self.forward()))

  def _evaluate(self) -> dict[str, Any]:
    from mixer_jax.bench import data_input

    fed = self._fed('forward', self.forward())
    pictures = all(map(_is_installed, _NEEDS['input']))
    return data_input.evaluation(self, fed.size, fed.weights, photographs=pictures)

  def forward(self) -> Program:
    """The forward pass."""
    return programs.forward(self.model, self.mesh)

  def training(self) -> Program:
    """The training step."""
    return programs.training(self.model, self.mesh, OPTIMIZER, 'softmax')

  def size(self, name: str, program: Program) -> int:
    """The batch size for a program, searched for once where none was asked for."""
    if self._batch_size is not None:
      return self._batch_size
    if name not in self._sizes:

      def rate(size: int) -> float:
        terminal.live(f'{name}: trying batches of {size:,}')
        found = Fed(program, self.model, self.mesh, size).rate(_SEARCH_SECONDS)
        log.info('%s: %.4g images/s in batches of %d', name, found, size)
        return found

      self._sizes[name] = batch_size.best(rate, self.mesh.size)
    return self._sizes[name]

  def _fed(self, name: str, program: Program) -> Fed:
    size = self.size(name, program)
    try:
      return Fed(program, self.model, self.mesh, size)
    except DoesNotFitError as error:
      reason = str(error)
    log.info('%s: a batch of %d does not fit (%s): looking for one that does', name, size, reason)
    found = batch_size.largest(lambda n: self._fits(program, n), size, self.mesh.size)
    hint = f'of {found:,} do (--batch={found})' if found else 'nor does any other'
    raise DoesNotFitError(f'{name}: batches of {size:,} do not fit ({reason}); {hint}')

  def _fits(self, program: Program, size: int) -> bool:
    try:
      Fed(program, self.model, self.mesh, size)
    except DoesNotFitError:
      return False
    return True

  def _told(self, fed: Fed) -> dict[str, Any]:
    if self._multiply is None:
      self._multiply = measure.Multiply(self.model.dtype)
    return programs.told(
      fed, self._multiply, self.peak, rounds=self.rounds, steps_a_round=self.steps_a_round
    )


def _is_installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:  # not even what it is a part of
    return False
