"""Numbers as text, and tables of text: aligned for a terminal, or as Markdown."""

import csv
import io
from collections.abc import Sequence

from mixer_jax.errors import printable

_FORMULA = ('=', '+', '-', '@', '\t', '\r')
"""First characters of a formula, or of what some spreadsheets skip before one."""

Row = Sequence[str]


def aligned(header: Row, rows: Sequence[Row], *, left: int = 1) -> str:
  """Return columns two spaces apart; all but the first `left` are right-aligned."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  line = lambda row: '  '.join(
    cell.ljust(width) if place < left else cell.rjust(width)
    for place, (cell, width) in enumerate(zip(row, widths, strict=True))
  )
  return ''.join(f'{line(row).rstrip()}\n' for row in (header, *rows))


def markdown(header: Row, rows: Sequence[Row]) -> str:
  """Return the same table as Markdown; the first column is left-aligned."""
  rule = ['---', *['--:'] * (len(header) - 1)]
  line = lambda row: '| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |\n'
  return ''.join(map(line, (header, rule, *rows)))


def comma_separated(header: Row, rows: Sequence[Sequence[str | int | float]]) -> str:
  """Return the same table as CSV.

  Names from files cannot do harm: control characters are escaped, and what a spreadsheet would take
  as a formula begins with an apostrophe.
  """
  text = io.StringIO()
  writer = csv.writer(text, lineterminator='\n')
  writer.writerow(header)
  for row in rows:
    writer.writerow([_as_text(cell) if isinstance(cell, str) else cell for cell in row])
  return text.getvalue()


def _as_text(cell: str) -> str:
  return f"'{printable(cell)}" if cell[:1] in _FORMULA else printable(cell)


def with_deviation(mean: float, deviation: float | None, digits: int = 2) -> str:
  """Return '81.20 ± 0.30', or '81.20' if there is no deviation."""
  text = f'{mean:.{digits}f}'
  return text if deviation is None else f'{text} ± {deviation:.{digits}f}'


def metric_title(metric: str) -> str:
  """Return the name and unit of a metric of an evaluation: 'top-1, %' of 'top1'."""
  name = metric.rpartition('/')[2]
  titles = {'top1': 'top-1, %', 'top5': 'top-5, %', 'real': 'ReaL, %', 'loss': 'loss'}
  return metric.removesuffix(name) + titles.get(name, f'{name}, %')


def binary_size(count: float) -> str:
  """Return a number of bytes as '12.34 GiB', or below a tenth of that unit as '12.34 MiB'."""
  if count >= 2**30 / 10:
    return f'{count / 2**30:,.2f} GiB'
  return f'{count / 2**20:,.2f} MiB'


def mebibytes(size: int) -> str:
  """Return a number of bytes as '1,234.5 MiB'."""
  return f'{size / 2**20:,.1f} MiB'
