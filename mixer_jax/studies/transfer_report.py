"""What came of transferring to many tasks: `transfer.json`, a table, and the paper's rows."""

import json
import sys
from typing import Any

from etils import epath

from mixer_jax.errors import UserError
from mixer_jax.models import paper
from mixer_jax.pictures import text_tables
from mixer_jax.studies import transfer_scores


def summed_up(report: dict[str, Any]) -> dict[str, Any]:
  """The report with the means by group and suite, and the paper's rows beside them."""
  done = {name: told for name, told in report['tasks'].items() if 'failed' not in told}
  means = transfer_scores.group_means({name: told['top1'] for name, told in done.items()})
  rows = paper.published(report['variant'].split(' grown')[0], report['pretrained_on'])
  # What both tables have differs by the evaluation crop: at 448 px ours is Table 2's.
  rows = {row[:4]: row for row in sorted(rows, key=lambda row: -row.table)}.values()
  return {
    **report,
    'means': {group: vars(mean) for group, mean in means.items()},
    'paper': [row._asdict() for row in rows],
  }


_HEADER = ('task', 'px', 'learning rate', 'held out, %', 'top-1, %', 'paper')
_GROUPS = {'vtab': 'VTAB-1k', 'avg5': 'Avg 5'}


def _table(report: dict[str, Any]) -> list[list[str]]:
  beside = _beside(report)
  rows = []
  for name, told in report['tasks'].items():
    if 'failed' in told:
      rows.append([name, str(told['image_size']), '', '', 'failed', ''])
      continue
    rate = str(told['rate'])
    held_out = f'{told["rates"][rate]["top1"]:.2f}'
    size = str(told['image_size'])
    rows.append([name, size, rate, held_out, with_deviation(told), beside.get(name, '')])
  for group, mean in report['means'].items():
    rows.append(
      [_GROUPS.get(group, group), '', '', '', with_deviation(mean), beside.get(group, '')]
    )
  return rows


def _beside(report: dict[str, Any]) -> dict[str, str]:
  """Task or suite -> the paper's figure, where only one can be meant."""
  sizes = {told['image_size'] for told in report['tasks'].values() if told['group'] == 'avg5'}
  found: dict[str, set[float]] = {}
  for row in report['paper']:
    figures = {'avg5/imagenet': row['imagenet'], 'avg5': row['avg5'], 'vtab': row['vtab']}
    for name, value in figures.items():
      if value is not None and (name == 'vtab' or sizes == {row['size']}):
        found.setdefault(name, set()).add(value)
  return {name: f'{values.pop():.2f}' for name, values in found.items() if len(values) == 1}


def with_deviation(told: dict[str, Any]) -> str:
  text = f'{told["mean"]:.2f}'
  return text if told['deviation'] is None else f'{text} ± {told["deviation"]:.2f}'


def _paper_in_words(report: dict[str, Any]) -> str:
  lines = []
  for row in (paper.Published(**row) for row in report['paper']):
    figures = f'ImageNet {row.imagenet:.2f}, Avg 5 {row.avg5:.2f}'
    figures += '' if row.vtab is None else f', VTAB-1k {row.vtab:.2f}'
    lines.append(
      f"the paper's {row.variant} of {row.data} ({row.epochs} epochs), {row.size} px: {figures} "
      f'(Table {row.table})\n'
    )
  return ''.join(lines)


def write(folder: epath.Path, report: dict[str, Any]) -> None:
  markdown = text_tables.markdown(_HEADER, _table(report))
  files = {
    'transfer.json': json.dumps(report, indent=2) + '\n',
    'transfer.md': f'{report["checkpoint"]}\n\n{markdown}\n{_paper_in_words(report)}',
  }
  for name, text in files.items():
    aside = folder / f'{name}.tmp'
    aside.write_text(text)
    aside.replace(folder / name)


def tell(report: dict[str, Any], folder: epath.Path) -> None:
  sys.stdout.write(text_tables.aligned(_HEADER, _table(report)) + _paper_in_words(report))
  print(f'transfer.json and transfer.md are in {folder}')
  failed = [name for name, told in report['tasks'].items() if 'failed' in told]
  if failed:
    raise UserError(
      f'{len(failed)} of {len(report["tasks"])} tasks failed ({", ".join(failed)}): their lines '
      'above tell why; mend that, and the same command goes on'
    )
