"""Tables of text: aligned for a screen, or as Markdown."""

from collections.abc import Sequence

Row = Sequence[str]


def aligned(header: Row, rows: Sequence[Row]) -> str:
  """Columns two spaces apart, the first to the left and the others to the right."""
  widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
  line = lambda row: '  '.join(
    cell.ljust(width) if place == 0 else cell.rjust(width)
    for place, (cell, width) in enumerate(zip(row, widths, strict=True))
  )
  return ''.join(f'{line(row).rstrip()}\n' for row in (header, *rows))


def markdown(header: Row, rows: Sequence[Row]) -> str:
  """The same for a text that is rendered."""
  rule = ['---', *['--:'] * (len(header) - 1)]
  line = lambda row: '| ' + ' | '.join(cell.replace('|', r'\|') for cell in row) + ' |\n'
  return ''.join(map(line, (header, rule, *rows)))
