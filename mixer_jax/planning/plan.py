"""What a run will take on a TPU slice, estimated from what its compiler tells."""

import dataclasses
import hashlib
import importlib.metadata
import json
import logging
import os
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from mixer_jax import models
from mixer_jax.models import paper
from mixer_jax.paths import CACHE_SETTING
from mixer_jax.planning import topologies
from mixer_jax.planning.compiler import Facts, Program, compile_program, facts_from
from mixer_jax.planning.topologies import Topology

log = logging.getLogger(__name__)

Waiting = Callable[[float], None]


@dataclasses.dataclass(frozen=True)
class Plan:
  """A program on its slice. All times are estimates; none was measured."""

  program: Program
  data: str
  facts: Facts

  @property
  def topology(self) -> Topology:
    return topologies.find(self.program.topology)

  @property
  def needed(self) -> float:
    """Bytes a device: of the training step, or of the evaluation step if that is what is too
    large; as far as the compiler tells."""
    facts = self.facts
    for compiled in (facts.step, facts.evaluation):
      if compiled and compiled.needed is not None:
        return compiled.needed
    assert facts.step.temporaries is not None
    return facts.parameters + facts.optimizer + facts.batch + facts.step.temporaries

  @property
  def fault(self) -> str:
    """'training' or 'evaluation': the step for which the compiler found no place; ''."""
    if self.facts.step.needed is not None:
      return 'training'
    evaluation = self.facts.evaluation
    return 'evaluation' if evaluation and evaluation.needed is not None else ''

  @property
  def fits(self) -> bool:
    """Whether the compiler found place for both steps."""
    return not self.fault

  @property
  def images(self) -> int:
    """That the whole run sees."""
    return self.program.total_steps * self.program.batch_size

  def report(self) -> dict[str, Any]:
    """The plan for a file; what cannot be told of a program that does not fit is None."""
    facts, step, topology = self.facts, self.facts.step, self.topology
    seconds, source = _seconds(step, topology) if self.fits else (None, None)
    hours = seconds and seconds * self.program.total_steps / 3600
    peak = topology.generation.peak
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
        'limit': round(topology.generation.memory),
      },
      'flops_per_step': step.flops * facts.devices if self.fits else None,
      'recomputed': self.recomputed() if self.fits else None,
      'collectives': step.collectives,
      'compile_seconds': round(step.seconds + (evaluation.seconds if evaluation else 0), 1),
      'estimated_step_seconds': seconds,
      'estimate': source,
      'share_of_peak': seconds and step.flops / seconds / peak,
      'images_per_second': seconds and self.program.batch_size / seconds,
      'evaluation_images_per_second': batch_seconds
      and self.program.eval_batch_size / batch_seconds,
      'hours': hours,
      'core_days': hours and hours * facts.devices / 24,
      'paper_core_days': paper.core_days(self.program.model, self.data, self.images),
    }

  def recomputed(self) -> float:
    """Share of a plain step's FLOPs (three forward passes) that the program does beyond them."""
    plain = 3 * models.forward_flops(self.program.model) * self.program.batch_size
    return max(self.facts.step.flops * self.facts.devices / plain - 1, 0.0)


def _seconds(compiled, topology: Topology) -> tuple[float, str]:
  """(estimated seconds of a run, who estimates them)."""
  if compiled.optimal_seconds is not None:
    return compiled.optimal_seconds, 'compiler'
  generation = topology.generation
  roofline = max(compiled.flops / generation.peak, compiled.bytes_accessed / generation.bandwidth)
  return roofline, 'roofline'


def make_plan(program: Program, data: str, folder: pathlib.Path, waiting: Waiting) -> Plan:
  """The plan of a program, from `folder` if the same versions compiled the same before.

  XLA's own cache cannot read back programs for a TPU that is not here.
  """
  path = folder / f'{_key(program)}.json'
  try:
    plan = Plan(program, data, facts_from(json.loads(path.read_text())))
    plan.report()
    return plan
  except Exception:  # there is none, or it is damaged in whatever way
    pass
  facts = compile_program(program, waiting)
  try:
    folder.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(f'.{os.getpid()}')
    draft.write_text(json.dumps(dataclasses.asdict(facts)))
    draft.replace(path)
  except OSError as error:
    log.warning('the plan is not kept (%s): name another folder with %s', error, CACHE_SETTING)
  return Plan(program, data, facts)


def _key(program: Program) -> str:
  """Of all that the compiler's answer depends on."""
  asked = dataclasses.asdict(program)
  del asked['total_steps']  # a constant in the schedule
  packages = ('jax', 'jaxlib', 'libtpu', 'flax', 'optax')
  versions = {name: _version(name) for name in packages}
  source = hashlib.sha256()
  package = pathlib.Path(models.__file__).parent.parent
  for room in ('models', 'parallel', 'training', 'evaluation', 'planning'):
    for path in sorted((package / room).glob('*.py')):
      source.update(path.read_bytes())
  told = json.dumps([asked, versions, source.hexdigest()], sort_keys=True)
  return hashlib.sha256(told.encode()).hexdigest()[:32]


def _version(name: str) -> str:
  try:
    return importlib.metadata.version(name)
  except importlib.metadata.PackageNotFoundError:
    return ''


def suggestions(plan: Plan) -> Iterator[tuple[str, Program]]:
  """(what is changed, the program with it): to be planned, each in its turn."""
  program, topology = plan.program, plan.topology
  if plan.fault == 'evaluation':
    size = topology.devices
    while size * 2 < program.eval_batch_size and size < 32 * topology.devices:
      size *= 2
    yield f'eval_batch_size={size}', dataclasses.replace(program, eval_batch_size=size)
    return
  program = dataclasses.replace(program, eval_batch_size=0)
  if not program.model.remat:
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
  """The least power of two, of what can be cut so, that promises to make the step fit."""
  facts, program = plan.facts, plan.program
  fixed = facts.parameters + facts.optimizer
  growing = max(plan.needed - fixed, 1)
  free = plan.topology.generation.memory - fixed
  parts = 2
  most = program.batch_size // (ways * program.accumulate)
  while growing / parts > free and parts * 2 <= most:
    parts *= 2
  return parts if program.batch_size % (ways * program.accumulate * parts) == 0 else 1
