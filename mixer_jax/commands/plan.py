"""`mixer-jax plan`: what a run takes on a TPU slice, compiled for it without one."""

import json
import logging
import signal
import sys
from typing import Any

import numpy as np

from mixer_jax import models
from mixer_jax.commands import flags
from mixer_jax.data.recipes import RECIPES
from mixer_jax.errors import DoesNotFitError, UserError
from mixer_jax.models import paper
from mixer_jax.parallel import mesh as meshes
from mixer_jax.paths import cache_folder, user_path
from mixer_jax.pictures import run_pictures
from mixer_jax.planning import plan as plans
from mixer_jax.planning import topologies
from mixer_jax.planning.compiler import Program
from mixer_jax.planning.plan import Plan
from mixer_jax.runlog import console
from mixer_jax.runlog.terminal import duration
from mixer_jax.runs import config_file, experiment, initial_model
from mixer_jax.runs.evaluation_setup import check_recipe
from mixer_jax.runs.run_config import RunConfig

log = logging.getLogger(__name__)

_GIB = topologies.GIB


def main(argv: list[str]) -> None:
  """Prints a plan, or a table of several; writes nothing but what is asked for."""
  parser = flags.Parser('plan', __doc__ or '')
  parser.add_config(required=True, example='configs/pretrain.py:L/16,imagenet21k')
  where = parser.add_mutually_exclusive_group(required=True)
  where.add_argument('--topology', metavar='NAME', help='a slice, such as v3:4x4: 16 chips')
  where.add_argument('--topologies', metavar='NAMES', help='a table of several, as v3:2x2,v3:4x4')
  parser.add_argument('--json', metavar='FILE', help='also write it there; - is stdout')
  parser.add_argument('--plot', metavar='FILE', help='of --topologies: a PNG of time and cost')
  parser.add_argument(
    '--suggest', action='store_true', help='also try remat, fsdp, micro-batches, a smaller batch'
  )
  args, overrides = parser.parse(argv)
  terminal = console.setup_console()
  if args.plot and not args.topologies:
    raise UserError('--plot draws --topologies: name several')
  if args.suggest and args.topologies:
    raise UserError('--suggest is for one --topology')
  if args.plot == '-':
    raise UserError('--plot is a picture: name a file for it')
  flags.check_targets({'json': args.json, 'plot': args.plot})
  names = args.topologies.split(',') if args.topologies else [args.topology]
  config = RunConfig.from_fields(config_file.load_config(args.config, overrides))
  programs = _programs(config, list(dict.fromkeys(names)))
  # The compiler is another process, that must not outlive this one.
  signal.signal(signal.SIGINT, signal.default_int_handler)

  def make(program: Program) -> Plan:
    name = f'{models.variant_of(program.model)} for {program.topology}'
    begun = False

    def waiting(seconds: float) -> None:  # not called where the plan is known already
      nonlocal begun
      if not begun:
        terminal.plain(f'compiling {name}')
        begun = True
      terminal.live(f'compiling {name}: {duration(seconds)}')

    try:
      return plans.make_plan(program, config.data.name, cache_folder() / 'plans', waiting)
    finally:
      terminal.finish()

  made = [make(program) for program in programs]
  reports = [plan.report() for plan in made]
  shown = sys.stderr if args.json == '-' else sys.stdout
  if args.topologies:
    print(_table([plan.program.topology for plan in made], reports), file=shown)
    print(_CAUTION, file=shown)
  else:
    print(_text(made[0], reports[0], args.config), file=shown)
  if args.suggest:
    tried = {change: make(program).report() for change, program in plans.suggestions(made[0])}
    print(_table(list(tried), list(tried.values())), file=shown)
    reports[0]['suggestions'] = tried
  _write(args, reports)
  if not any(plan.fits for plan in made):
    missing = min(plan.needed - plan.topology.generation.memory for plan in made)
    raise DoesNotFitError(
      f'does not fit, by {max(missing, 0) / _GIB:.2f} GiB a core'
      + ('' if args.suggest else ': --suggest tries what may help')
    )


def _programs(config: RunConfig, names: list[str]) -> list[Program]:
  """Everything is checked before the first is compiled."""
  check_recipe(config.data)
  model = initial_model.model_of(config)
  total_steps = config.total_steps
  if config.total_epochs:
    size = paper.IMAGES.get(config.data.name) or len(experiment.open_train(config.data))
    total_steps = config.steps_for(size)
  programs = []
  for name in names:
    topology = topologies.find(name)
    mesh = meshes.abstract_mesh(topology.devices, **config.mesh.sizes())
    meshes.check_batch(mesh, config.batch_size, config.accumulate)
    programs.append(
      Program(
        topology=name,
        mesh=tuple(mesh.shape[axis] for axis in meshes.AXES),
        model=model,
        optimizer=config.optimizer,
        total_steps=total_steps,
        loss=config.loss,
        batch_size=config.batch_size,
        accumulate=config.accumulate,
        mixup=config.mixup,
        eval_batch_size=experiment.eval_batch_size(config, mesh),
        eval_level=np.dtype(RECIPES[config.data.eval_recipe].level).name,
      )
    )
  return programs


_CAUTION = 'Times are estimates of the compiler or a roofline, not measured: use them to compare.'


def _text(plan: Plan, report: dict[str, Any], config: str) -> str:
  program, limit = plan.program, report['bytes_per_core']['limit']
  mesh = ' × '.join(f'{n} {axis}' for n, axis in zip(program.mesh, meshes.AXES, strict=True))
  lines = [
    f'{config} on {report["topology"]} ({report["accelerator"]}): {report["devices"]} devices, '
    f'{report["processes"]} process(es); {mesh}',
    f'{report["variant"]}: {report["num_parameters"]:,} parameters; '
    f'{program.total_steps:,} updates of {program.batch_size:,} images',
  ]
  parts = report['bytes_per_core']
  told = '  '.join(
    f'{kind} {_size(parts[kind])}'
    for kind in ('parameters', 'optimizer', 'batch', 'temporaries')
    if parts[kind] is not None
  )
  verdict = 'fits' if plan.fits else 'does NOT fit'
  lines.append(f'a device holds {told}: {_size(plan.needed)} of {_size(limit)}: {verdict}')
  if plan.fault:
    return '\n'.join([*lines, f'it is the {plan.fault} step that is too large'])
  lines.append(f'{report["flops_per_step"] / 1e12:,.5g} TFLOP an update, of all devices')
  if report['recomputed'] > 0.05 and plan.needed > limit / 2 and not program.model.remat:
    lines.append(
      f'  {100 * report["recomputed"]:.0f} % more than a plain step: the compiler computes '
      'activations again, for them to fit'
    )
  for kind, moved in report['collectives'].items():
    lines.append(f'{kind}: {moved["count"]} an update, {_size(moved["bytes"])} a device')
  lines.append(f'compiled in {report["compile_seconds"]:.0f} s')
  lines.append(
    f'estimated: {report["estimated_step_seconds"]:.3g} s an update '
    f'({100 * report["share_of_peak"]:.0f} % of peak), {report["images_per_second"]:,.0f} images/s;'
    f' evaluation {report["evaluation_images_per_second"]:,.0f} images/s'
  )
  lines.append(
    f'estimated: {_number(report["hours"])} hours of training, '
    f'{_number(report["core_days"])} core-days'
  )
  if report['paper_core_days']:
    lines.append(f"the paper's run took {report['paper_core_days']:,} TPU-v3 core-days (Table 3)")
  return '\n'.join([*lines, _CAUTION])


def _number(value: float) -> str:
  return f'{value:,.1f}' if value >= 1 else f'{value:.2g}'


def _size(count: float) -> str:
  return f'{count / _GIB:.2f} GiB' if count >= _GIB / 10 else f'{count / 2**20:.2f} MiB'


def _table(names: list[str], reports: list[dict[str, Any]]) -> str:
  width = max(map(len, [*names, 'topology']))
  lines = [f'{"":{width}}  devices     GiB     fits   s/update   images/s      hours  core-days']
  for name, report in zip(names, reports, strict=True):
    line = f'{name:{width}}  {report["devices"]:7,}'
    line += f' {report["needed_bytes_per_core"] / _GIB:7.2f} {"yes" if report["fits"] else "NO":>8}'
    if report['fits']:
      line += f' {report["estimated_step_seconds"]:10.3g} {report["images_per_second"]:10,.0f}'
      line += f' {_number(report["hours"]):>10} {_number(report["core_days"]):>10}'
    lines.append(line)
  return '\n'.join(lines)


def _write(args, reports: list[dict[str, Any]]) -> None:
  told = json.dumps(reports if args.topologies else reports[0], indent=2) + '\n'
  flags.write(args.json, told)
  if args.plot:
    rows = [report for report in reports if report['fits']]
    if rows:
      user_path(args.plot).write_bytes(run_pictures.costs(rows))
    shown = f'{args.plot}: {len(rows)} slices' if rows else 'no slice fits: nothing to plot'
    log.info('%s', shown)
