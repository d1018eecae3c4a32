"""Table of `mixer-jax transfer` next to the paper's rows, from what `transfer.json` holds."""

from collections.abc import Mapping
from typing import Any

from mixer_jax.errors import UserError
from mixer_jax.models import paper
from mixer_jax.pictures import text_tables
from mixer_jax.pictures.text_tables import with_deviation

_HEADER = ('task', 'px', 'learning rate', 'held out, %', 'top-1, %', 'paper')
_GROUPS = {'vtab': 'VTAB-1k', 'avg5': 'Avg 5'}


def text(values: Mapping[str, Any]) -> str:
  """Table, and the paper's rows in words."""
  return text_tables.aligned(_HEADER, _rows(values)) + _paper_text(values)


def files(values: Mapping[str, Any]) -> dict[str, str]:
  """File name -> the same as Markdown."""
  table = text_tables.markdown(_HEADER, _rows(values))
  return {'transfer.md': f'{values["checkpoint"]}\n\n{table}\n{_paper_text(values)}'}


def check_complete(values: Mapping[str, Any]) -> None:
  """Raises `UserError` if a task failed."""
  failed = [name for name, task in values['tasks'].items() if 'failed' in task]
  if failed:
    raise UserError(
      f'{len(failed)} of {len(values["tasks"])} tasks failed ({", ".join(failed)}): see the '
      'messages above; fix the cause and run the same command again, which resumes'
    )


def _rows(values: Mapping[str, Any]) -> list[tuple[str, ...]]:
  figures = _paper_figures(values)
  rows = []
  for name, task in values['tasks'].items():
    size = str(task['image_size'])
    if 'failed' in task:
      rows.append((name, size, '', '', 'failed', ''))
      continue
    rate, mean = str(task['rate']), with_deviation(task['mean'], task['deviation'])
    held_out = f'{task["rates"][rate]["top1"]:.2f}'
    rows.append((name, size, rate, held_out, mean, figures.get(name, '')))
  for group, mean in values['means'].items():
    label, mean = _GROUPS.get(group, group), with_deviation(mean['mean'], mean['deviation'])
    rows.append((label, '', '', '', mean, figures.get(group, '')))
  return rows


def _paper_figures(values: Mapping[str, Any]) -> dict[str, str]:
  """Task or suite -> the paper's figure, if only one applies."""
  sizes = {task['image_size'] for task in values['tasks'].values() if task['group'] == 'avg5'}
  found: dict[str, set[float]] = {}
  for row in values['paper']:
    figures = {'avg5/imagenet': row['imagenet'], 'avg5': row['avg5'], 'vtab': row['vtab']}
    for name, value in figures.items():
      if value is not None and (name == 'vtab' or sizes == {row['size']}):
        found.setdefault(name, set()).add(value)
  return {name: f'{values.pop():.2f}' for name, values in found.items() if len(values) == 1}


def _paper_text(values: Mapping[str, Any]) -> str:
  lines = []
  for row in (paper.Published(**row) for row in values['paper']):
    found = {'ImageNet': row.imagenet, 'Avg 5': row.avg5, 'VTAB-1k': row.vtab}
    figures = ', '.join(f'{name} {v:.2f}' for name, v in found.items() if v is not None)
    lines.append(
      f"the paper's {row.variant} of {row.data} ({row.epochs} epochs), {row.size} px: {figures} "
      f'(Table {row.table})\n'
    )
  return ''.join(lines)
