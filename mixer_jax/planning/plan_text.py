"""Plans as text: one in full, or a table of several."""

from collections.abc import Sequence
from typing import Any

from mixer_jax.models import paper
from mixer_jax.parallel.chips import GIB
from mixer_jax.parallel.mesh import AXES
from mixer_jax.pictures.text_tables import aligned, binary_size
from mixer_jax.planning.plan import Plan

NOTE = 'Times are estimates of the compiler or a roofline, not measured: use them to compare.'


def table_note(reports: Sequence[dict[str, Any]]) -> str:
  """Return the lines below a table of these reports."""
  row = next((report['input'] for report in reports if report['input']), None)
  if row is None:
    return NOTE
  return (
    f'host needs, host can: images/s of the input of each host ({row["source"]}); hours and '
    f'core-days then: where it cannot keep up.\n{NOTE}'
  )


def full(plan: Plan, name: str) -> str:
  """Return all lines of a plan, of a config of this name."""
  report, program = plan.report(), plan.program
  parts = report['bytes_per_core']
  limit = parts['limit']
  mesh = ' × '.join(f'{n} {axis}' for n, axis in zip(program.mesh, AXES, strict=True))
  held = '  '.join(
    f'{kind} {binary_size(parts[kind])}'
    for kind in ('parameters', 'optimizer', 'batch', 'temporaries')
    if parts[kind] is not None
  )
  verdict = 'fits' if plan.fits else 'does NOT fit'
  lines = [
    f'{name} on {report["topology"]} ({report["accelerator"]}): {report["devices"]} devices, '
    f'{report["processes"]} process(es); {mesh}',
    f'{report["variant"]}: {report["num_parameters"]:,} parameters; '
    f'{program.total_steps:,} updates of {program.batch_size:,} images',
    f'per device: {held}: {binary_size(plan.needed)} of {binary_size(limit)}: {verdict}',
  ]
  if not plan.fits:
    return '\n'.join([*lines, f'the {plan.too_large} step is too large'])
  lines.append(f'{report["flops_per_step"] / 1e12:,.5g} TFLOP per update, over all devices')
  if (
    report['recomputed'] > 0.05
    and plan.needed > limit / 2
    and not getattr(program.model, 'remat', False)
  ):
    lines.append(
      f'  {100 * report["recomputed"]:.0f} % more than a plain step: the compiler recomputes '
      'activations to save memory'
    )
  for kind, moved in report['collectives'].items():
    lines.append(f'{kind}: {moved["count"]} per update, {binary_size(moved["bytes"])} per device')
  lines += [
    f'compiled in {report["compile_seconds"]:.0f} s',
    f'estimated: {report["estimated_step_seconds"]:.3g} s per update '
    f'({100 * report["share_of_peak"]:.0f} % of peak), {report["images_per_second"]:,.0f} images/s;'
    f' evaluation {report["evaluation_images_per_second"]:,.0f} images/s',
    f'estimated: {_number(report["hours"])} hours of training, '
    f'{_number(report["core_days"])} core-days',
  ]
  if row := paper.run_of(program.model, plan.data, plan.images):
    lines.append(f"the paper's run took {row.core_days:,} TPU-v3 core-days (Table {row.table})")
  return '\n'.join([*lines, *_input(report['input']), NOTE])


def _input(row: dict[str, Any] | None) -> list[str]:
  """Return the lines about the input of the hosts."""
  if row is None:
    return []
  hosts = f'each of {row["hosts"]:,} hosts' if row['hosts'] > 1 else 'the host'
  lines = [
    f'input: {hosts} must deliver {row["needed_images_per_second_per_host"]:,.0f} images/s; its '
    f'{row["hardware_threads_per_host"]} hardware threads can deliver about '
    f'{row["possible_images_per_second_per_host"]:,.0f}',
    f'  ({row["source"]})',
  ]
  if not row['keeps_up']:
    lines.append(
      f'the input cannot keep up: {row["step_seconds"]:.3g} s per update, {_number(row["hours"])} '
      f'hours, {_number(row["core_days"])} core-days, waiting for it; faster are '
      f'{", ".join(row["remedies"])}'
    )
  return lines


def table(names: Sequence[str], reports: Sequence[dict[str, Any]]) -> str:
  """Return a table of plans: one row per report."""
  header = (
    *('', 'devices', 'GiB', 'fits', 's/update', 'images/s', 'hours', 'core-days'),
    *('host needs', 'host can', 'hours then', 'core-days then'),
  )
  rows = [(name, *_cells(report)) for name, report in zip(names, reports, strict=True)]
  return aligned(header, rows).rstrip('\n')


def _cells(report: dict[str, Any]) -> list[str]:
  """Return the cells of one plan; without times if it does not fit.

  The last two are the time with an input that cannot keep up.
  """
  cells = [f'{report["devices"]:,}', f'{report["needed_bytes_per_core"] / GIB:.2f}']
  if not report['fits']:
    return [*cells, 'NO', *[''] * 8]
  row = report['input']
  waiting = row and not row['keeps_up']
  return [
    *cells,
    'yes',
    f'{report["estimated_step_seconds"]:.3g}',
    f'{report["images_per_second"]:,.0f}',
    _number(report['hours']),
    _number(report['core_days']),
    f'{row["needed_images_per_second_per_host"]:,.0f}' if row else '',
    f'{row["possible_images_per_second_per_host"]:,.0f}' if row else '',
    _number(row['hours']) if waiting else '',
    _number(row['core_days']) if waiting else '',
  ]


def _number(value: float) -> str:
  return f'{value:,.1f}' if value >= 1 else f'{value:.2g}'
