"""The parts of a benchmark, and `run`, which measures those that were asked for."""

import dataclasses
import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from mixer_jax import models
from mixer_jax.bench import batch_size, measure, peaks, programs
from mixer_jax.bench.programs import LoadedProgram, Program
from mixer_jax.bench.settings import BenchSettings
from mixer_jax.errors import DoesNotFitError, UserError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.runlog import terminal
from mixer_jax.training.optimizer import PAPER_ADAM

log = logging.getLogger(__name__)

Report = dict[str, Any]
Row = dict[str, Any]

CKA_LAYERS = ('stem', 'block_*', 'pre_logits')
"""The layers that `cka` is measured on."""

_SEARCH_SECONDS = 0.5
"""Time that each batch size is tried for."""


def model_of(
  name: str = 'B/16', *, classes: int = 1000, image_size: int = 224
) -> models.ModelConfig:
  """Return the config of a variant by its name, such as 'B/16' or 'ViT-B/16'.

  Raises:
    UserError: there is no such model, or none of these sizes.
  """
  _, variant = models.find_variant(name)
  return dataclasses.replace(variant, num_classes=classes, image_size=image_size)


def run(
  settings: BenchSettings, on_progress: Callable[[Report, str | None], None] | None = None
) -> Report:
  """Measure the parts in turn, and return the report.

  A part whose packages are not installed is left out, with a line in the log.

  Args:
    on_progress: called with the report so far and None before the first part, then after each
      part with its name.

  Raises:
    DoesNotFitError: the batch size that was asked for does not fit; the message names one that
      does.
    UserError: the batch cannot be split over the devices, or no part can be measured.
  """
  session = Session(settings)
  parts = _installed(settings.parts)
  report = session.subject()
  report['parts'] = {}
  if on_progress:
    on_progress(report, None)
  for name in parts:
    report['parts'][name] = PARTS[name].measure(session)
    terminal.finish()
    if on_progress:
      on_progress(report, name)
  return report


class Session:
  """State that the parts of one benchmark share: settings made definite, and batch sizes found.

  Attributes:
    settings: with the model in its final dtype, and the mesh and the peak set, where known.
  """

  def __init__(self, settings: BenchSettings):
    self.mesh = settings.mesh or meshes.make_mesh()
    if settings.batch_size is not None:
      meshes.check_batch(self.mesh, settings.batch_size)
    self.model = _with_dtype(settings.model, settings.dtype)
    self.device = self.mesh.devices.flat[0].device_kind
    self.settings = dataclasses.replace(
      settings,
      model=self.model,
      mesh=self.mesh,
      peak=settings.peak or peaks.peak(self.device, self.model.dtype),
    )
    self._sizes: dict[str, int] = {}
    self._multiply: measure.Multiply | None = None

  def subject(self) -> Report:
    """Return the head of the report: the model, the devices, the versions and the time."""
    packages = ('jax', 'jaxlib', 'flax', 'optax', 'numpy')
    return {
      'model': models.variant_of(self.model),
      'num_parameters': models.num_params(self.model),
      'image_size': self.model.image_size,
      'num_classes': self.model.num_classes,
      'dtype': self.model.dtype,
      'device': self.device,
      'devices': self.mesh.size,
      'processes': jax.process_count(),
      'peak_flops_per_second': self.settings.peak,
      'versions': {name: importlib.metadata.version(name) for name in packages},
      'time': time.time(),
    }

  def forward(self) -> Program:
    """Return the forward pass."""
    return programs.forward(self.model, self.mesh)

  def training(self) -> Program:
    """Return the training step, with the optimizer and loss of the experiment or the paper's."""
    experiment = self.settings.experiment
    if experiment is None:
      return programs.training(self.model, self.mesh, PAPER_ADAM, 'softmax')
    return programs.training(self.model, self.mesh, experiment.optimizer, experiment.loss)

  def batch_size(self, name: str, program: Program) -> int:
    """Return the batch size for a program: the one in the settings, or the result of one search."""
    if self.settings.batch_size is not None:
      return self.settings.batch_size
    if name not in self._sizes:

      def rate(size: int) -> float:
        terminal.live(f'{name}: trying batches of {size:,}')
        found = LoadedProgram(program, self.model, self.mesh, size).rate(_SEARCH_SECONDS)
        log.info('%s: %.4g images/s in batches of %d', name, found, size)
        return found

      self._sizes[name] = batch_size.best(rate, self.mesh.size)
    return self._sizes[name]

  def loaded(self, name: str, program: Program) -> LoadedProgram:
    """Return the program, compiled for its batch size and with its arguments.

    Raises:
      DoesNotFitError: that batch size does not fit; the message names one that does.
    """
    size = self.batch_size(name, program)
    try:
      return LoadedProgram(program, self.model, self.mesh, size)
    except DoesNotFitError as error:
      reason = str(error)
    log.info('%s: a batch of %d does not fit (%s): searching for one that does', name, size, reason)
    found = batch_size.largest(lambda n: self._fits(program, n), size, self.mesh.size)
    hint = f'a batch size of {found} fits' if found else 'no other batch size fits'
    raise DoesNotFitError(f'{name}: a batch size of {size} does not fit ({reason}); {hint}')

  def _fits(self, program: Program, size: int) -> bool:
    try:
      LoadedProgram(program, self.model, self.mesh, size)
    except DoesNotFitError:
      return False
    return True

  def measured(self, loaded: LoadedProgram) -> Row:
    """Measure one program."""
    if self._multiply is None:
      self._multiply = measure.Multiply(self.model.dtype)
    return programs.measured(
      loaded,
      self._multiply,
      self.settings.peak,
      rounds=self.settings.rounds,
      steps_per_round=self.settings.steps_per_round,
    )


def _with_dtype(model: models.ModelConfig, dtype: str | None) -> models.ModelConfig:
  if dtype == 'auto':  # bfloat16 is slow on CPUs
    dtype = 'float32' if jax.default_backend() == 'cpu' else 'bfloat16'
  return model if dtype is None else dataclasses.replace(model, dtype=dtype)


def _forward(session: Session) -> Row:
  return session.measured(session.loaded('forward', session.forward()))


def _train(session: Session) -> Row:
  return session.measured(session.loaded('train', session.training()))


def _loop(session: Session) -> Row:
  from mixer_jax.bench import train_loop

  loaded = session.loaded('train', session.training())
  return train_loop.loop(session.settings, session.mesh, loaded)


def _input(session: Session) -> Row:
  from mixer_jax.bench import data_input

  return data_input.reading(session.settings, session.mesh)


def _evaluate(session: Session) -> Row:
  from mixer_jax.bench import data_input

  loaded = session.loaded('forward', session.forward())
  return data_input.evaluation(
    session.settings,
    session.mesh,
    loaded.size,
    loaded.weights,
    from_files=not _missing(PARTS['input'].needs),
  )


def _checkpoint(session: Session) -> Row:
  from mixer_jax.bench import train_loop

  return train_loop.checkpoint(session.settings, session.training())


def _cka(session: Session) -> Row:
  from mixer_jax.analysis import cka, hsic, layers

  names = layers.choose(layers.layer_names(session.model), CKA_LAYERS)
  method = hsic.Method('linear', None, None, 'unbiased')
  step = cka.make_cka_step(session.model, names, session.mesh, method)
  program = programs.of_params(session.model, session.mesh, step, masked=True)
  return {**session.measured(session.loaded('cka', program)), 'layers': len(names)}


class Part(NamedTuple):
  """One part of a benchmark."""

  measure: Callable[[Session], Row]
  needs: tuple[str, ...] = ()
  """Modules that it imports in addition to JAX, Flax, Optax and NumPy."""


PARTS = {
  'forward': Part(_forward),
  'train': Part(_train),
  'loop': Part(_loop, ('orbax.checkpoint',)),
  'input': Part(_input, ('cv2', 'PIL', 'scipy', 'simplejpeg', 'sklearn', 'etils')),
  'evaluate': Part(_evaluate),  # on noise, where the modules of `input` are missing
  'checkpoint': Part(_checkpoint, ('orbax.checkpoint',)),
  'cka': Part(_cka),
}
"""Name -> part; the names are those of `settings.PARTS`."""


def _installed(parts: tuple[str, ...]) -> list[str]:
  """Return the parts whose modules are installed; the others are logged.

  Raises:
    UserError: there is none.
  """
  left = []
  for part in parts:
    missing = _missing(PARTS[part].needs)
    if missing:
      log.warning(
        "%s is not measured: it needs %s (pip install 'mixer_jax')", part, ', '.join(missing)
      )
    else:
      left.append(part)
  if not left:
    raise UserError(
      f"nothing to measure of {', '.join(parts)}: install all packages with pip install 'mixer_jax'"
    )
  return left


def _missing(modules: tuple[str, ...]) -> list[str]:
  return [name for name in modules if not _is_installed(name)]


def _is_installed(name: str) -> bool:
  try:
    return importlib.util.find_spec(name) is not None
  except ModuleNotFoundError:  # its parent package is missing
    return False
