"""Plans: memory, time and cost of a run on a TPU slice, from the numbers of its compiler."""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import pathlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from mixer_jax import models
from mixer_jax.errors import StorageError
from mixer_jax.home import cache_folder, warn_uncached
from mixer_jax.models import paper
from mixer_jax.paths import write_whole
from mixer_jax.planning import host_input, topologies
from mixer_jax.planning.compiler import Compiled, Facts, Program, compile_program, facts_from
from mixer_jax.planning.host_input import InputRate
from mixer_jax.planning.run_program import programs_of
from mixer_jax.planning.topologies import Topology
from mixer_jax.runlog import terminal
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.training import step as steps

log = logging.getLogger(__name__)

_COMPILED_ROOMS = ('models', 'parallel', 'training', 'evaluation', 'planning')
"""Packages whose source the compiler's answer depends on."""


@dataclasses.dataclass(frozen=True)
class Plan:
  """A program on its slice. All times are estimates; none was measured.

  Attributes:
    data: name of the data set, by which the paper's run is found; '': none.
    input: rate of the hosts' input; None: not planned.
  """

  program: Program
  data: str
  facts: Facts
  input: InputRate | None = None

  @property
  def topology(self) -> Topology:
    """The slice."""
    return topologies.find(self.program.topology)

  @property
  def needed(self) -> float:
    """Bytes per device of the training step, or of the evaluation step if that is too large.

    If that step does not fit, this is the number in the compiler's message.
    """
    facts = self.facts
    for compiled in (facts.step, facts.evaluation):
      if compiled and compiled.needed is not None:
        return compiled.needed
    assert facts.step.temporaries is not None
    return facts.parameters + facts.optimizer + facts.batch + facts.step.temporaries

  @property
  def too_large(self) -> str:
    """The step that does not fit, 'training' or 'evaluation'; '' if both fit."""
    if self.facts.step.needed is not None:
      return 'training'
    evaluation = self.facts.evaluation
    return 'evaluation' if evaluation and evaluation.needed is not None else ''

  @property
  def fits(self) -> bool:
    """True if both steps fit into the memory of a device."""
    return not self.too_large

  @property
  def images(self) -> int:
    """Number of images in the whole run."""
    return self.program.total_steps * self.program.batch_size

  def report(self) -> dict[str, Any]:
    """Return the plan as a JSON-able dict; unknown values of one that does not fit are None."""
    facts, step, topology = self.facts, self.facts.step, self.topology
    seconds, source = _seconds(step, topology) if self.fits else (None, None)
    hours = seconds and seconds * self.program.total_steps / 3600
    evaluation = facts.evaluation
    batch_seconds = evaluation and self.fits and _seconds(evaluation, topology)[0]
    return {
      'topology': topology.name,
      'accelerator': topology.accelerator,
      'devices': facts.devices,
      'processes': facts.processes,
      'variant': models.variant_of(self.program.model),
      'num_parameters': models.num_params(self.program.model),
      'batch_size': self.program.batch_size,
      'fits': self.fits,
      'needed_bytes_per_core': round(self.needed),
      'bytes_per_core': {
        'parameters': facts.parameters,
        'optimizer': facts.optimizer,
        'batch': facts.batch,
        'temporaries': step.temporaries,
        'limit': round(topology.chip.memory),
      },
      'flops_per_step': step.flops * facts.devices if self.fits else None,
      'recomputed': self.recomputed() if self.fits else None,
      'collectives': step.collectives,
      'compile_seconds': round(step.seconds + (evaluation.seconds if evaluation else 0), 1),
      'estimated_step_seconds': seconds,
      'estimate': source,
      'share_of_peak': seconds and step.flops / seconds / topology.chip.peak,
      'images_per_second': seconds and self.program.batch_size / seconds,
      'evaluation_images_per_second': batch_seconds
      and self.program.eval_batch_size / batch_seconds,
      'hours': hours,
      'core_days': hours and hours * facts.devices / 24,
      'paper_core_days': self._paper_core_days(),
      'input': seconds and self._input(seconds),
    }

  def _paper_core_days(self) -> float | None:
    program = self.program  # no run of the paper has sharpness-aware minimisation
    known = not program.optimizer.sam_rho
    return paper.core_days(program.model, self.data, self.images) if known else None

  def _input(self, step_seconds: float) -> dict[str, Any] | None:
    program = self.program
    return self.input and host_input.report(
      self.input, self.topology, program.batch_size, program.total_steps, step_seconds
    )

  def recomputed(self) -> float:
    """Return the FLOPs beyond those of a step that recomputes nothing, as a share of it."""
    program = self.program
    plain = steps.flops_per_image(program.model, program.optimizer) * program.batch_size
    return max(self.facts.step.flops * self.facts.devices / plain - 1, 0.0)


def _seconds(compiled: Compiled, topology: Topology) -> tuple[float, str]:
  """Return (estimated seconds per run, source of the estimate)."""
  if compiled.optimal_seconds is not None:
    return compiled.optimal_seconds, 'compiler'
  chip = topology.chip
  return max(compiled.flops / chip.peak, compiled.bytes_accessed / chip.bandwidth), 'roofline'


def plan(config: RunConfig, topology: str, *, input_file: str | None = None) -> Plan:
  """Plan a run on a slice such as 'v3:4x4'; see `plan_all`."""
  (made,) = plan_all(config, [topology], input_file=input_file)
  return made


def plan_all(
  config: RunConfig, names: Sequence[str], *, input_file: str | None = None
) -> list[Plan]:
  """Plan a run on each of these slices; all are checked before the first is compiled.

  Args:
    names: of the slices, such as 'v3:4x4' or 'v3-32'.
    input_file: JSON file of `mixer-jax bench --what=input`, for the rate of the hosts' input;
      None: the built-in rate.

  Raises:
    UserError: there is no such slice or file, the config does not fit a slice, or there is no TPU
      compiler.
  """
  programs = programs_of(config, list(dict.fromkeys(names)))
  size = programs[0].model.image_size
  if input_file:
    rate = host_input.measured(input_file, config.data, size)
  else:
    rate = host_input.built_in(config.data, size)
  return [
    plan_program(program, config.data.name, rate, place=_place(number, len(programs)))
    for number, program in enumerate(programs, 1)
  ]


def _place(number: int, count: int) -> str:
  return f', {number} of {count}' if count > 1 else ''


def try_suggestions(plan: Plan) -> dict[str, Plan]:
  """Plan each change that may make a plan fit; returns change -> plan."""
  changed = dict(suggestions(plan))
  return {
    change: plan_program(
      program, plan.data, plan.input, place=f' with {change}{_place(number, len(changed))}'
    )
    for number, (change, program) in enumerate(changed.items(), 1)
  }


def plan_program(
  program: Program,
  data: str = '',
  rate: InputRate | None = None,
  *,
  place: str = '',
  folder: pathlib.Path | None = None,
) -> Plan:
  """Return the plan of a program; compiled once per version of the code and its libraries.

  XLA's own cache cannot read programs for a TPU that is not attached.

  Args:
    data: name of the data set, by which the paper's run is found.
    rate: of the hosts' input.
    place: follows the program's name in its progress line, such as ', 2 of 3'.
    folder: where the compiler's answers are kept; None: `plans` in the cache folder.

  Raises:
    UserError: the TPU compiler is not installed, or there is too little memory for it.
  """
  file = f'{_key(program)}.json'
  try:
    path = (folder or cache_folder() / 'plans') / file
    stored = json.loads(path.read_text())
    if stored['checksum'] != _checksum(stored['facts']):
      raise ValueError
    kept = Plan(program, data, facts_from(stored['facts']), rate)
    kept.report()
    return kept
  except Exception:  # there is none, or it is damaged in whatever way
    pass
  name = f'{models.variant_of(program.model)} for {program.topology}{place}'
  with _shown(name) as waiting:
    facts = compile_program(program, waiting)
  try:
    path = (folder or cache_folder() / 'plans') / file
    path.parent.mkdir(parents=True, exist_ok=True)
    fields = json.loads(json.dumps(dataclasses.asdict(facts)))  # as they will be read
    write_whole(path, json.dumps({'facts': fields, 'checksum': _checksum(fields)}))
  except (OSError, StorageError) as error:
    warn_uncached('plans', error)
  return Plan(program, data, facts, rate)


def _checksum(facts: dict[str, Any]) -> str:
  return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@contextlib.contextmanager
def _shown(name: str) -> Iterator[Callable[[str, float], None]]:
  """Show the progress of a compilation; yields `waiting` of `compile_program`."""
  terminal.plain(f'compiling {name}')
  try:
    yield lambda step, seconds: terminal.live(
      f'compiling {name}, {step} step: {terminal.duration(seconds)}'
    )
  finally:
    terminal.finish()


def _key(program: Program) -> str:
  """Return a hash of everything that the compiler's answer depends on."""
  fields = dataclasses.asdict(program)
  del fields['total_steps']  # a constant in the schedule
  packages = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax')
  versions = {name: _version(name) for name in packages}
  source = hashlib.sha256()
  for path in _sources(program):
    source.update(path.read_bytes())
  text = json.dumps([fields, versions, source.hexdigest()], sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()[:32]


def _sources(program: Program) -> Iterator[pathlib.Path]:
  """Yield the files that the compiler's answer depends on."""
  package = pathlib.Path(models.__file__).parent.parent
  for room in _COMPILED_ROOMS:
    yield from sorted((package / room).rglob('*.py'))
  yield models.source_file(program.model)  # a family may be in another package


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return ''


def suggestions(plan: Plan) -> Iterator[tuple[str, Program]]:
  """Yield (change, the program with this change), each of which may make a plan fit."""
  program, topology = plan.program, plan.topology
  if plan.too_large == 'evaluation':
    size = topology.devices
    while size * 2 < program.eval_batch_size and size < 32 * topology.devices:
      size *= 2
    yield f'eval_batch_size={size}', dataclasses.replace(program, eval_batch_size=size)
    return
  program = dataclasses.replace(program, eval_batch_size=0)
  if getattr(program.model, 'remat', None) is False:  # not every family has the field
    model = dataclasses.replace(program.model, remat=True)
    yield 'model.remat=True', dataclasses.replace(program, model=model)
  _, fsdp, hidden = program.mesh
  ways = topology.devices // hidden
  if fsdp < ways:
    mesh = (1, ways, hidden)
    yield f'mesh.data=1 mesh.fsdp={ways}', dataclasses.replace(program, mesh=mesh)
  parts = _parts(plan, ways)
  if parts > 1:
    accumulate = program.accumulate * parts
    yield f'accumulate={accumulate}', dataclasses.replace(program, accumulate=accumulate)
    size = program.batch_size // parts
    smaller = dataclasses.replace(program, batch_size=size, total_steps=program.total_steps * parts)
    yield f'batch_size={size} total_steps={smaller.total_steps}', smaller


def _parts(plan: Plan, ways: int) -> int:
  """Return the smallest power of two that, dividing the batch, should make the step fit; or 1."""
  facts, program = plan.facts, plan.program
  fixed = facts.parameters + facts.optimizer
  growing = max(plan.needed - fixed, 1)
  free = plan.topology.chip.memory - fixed
  parts = 2
  most = program.batch_size // (ways * program.accumulate)
  while growing / parts > free and parts * 2 <= most:
    parts *= 2
  return parts if program.batch_size % (ways * program.accumulate * parts) == 0 else 1
