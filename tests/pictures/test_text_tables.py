"""Tables of text."""

import csv

from mixer_jax.pictures.text_tables import (
  aligned,
  binary_size,
  comma_separated,
  markdown,
  mebibytes,
  with_deviation,
)

HEADER = ('task', 'top-1')
ROWS = [('dtd', '9.50'), ('a|b', '71.25 ± 0.10'), ('longer', '')]


def test_columns_are_aligned():
  assert aligned(HEADER, ROWS).splitlines() == [
    'task           top-1',
    'dtd             9.50',
    'a|b     71.25 ± 0.10',
    'longer',
  ]


def test_no_cell_of_a_csv_is_a_formula_or_moves_the_cursor():
  names = ['=1+1', '+1', '-1', '@a', '\t=1', '\r=1', 'a=1', 'a,"b"', 'c\x1b[31m', 'caf\udce9', '花']
  text = comma_separated(('name', 'top1'), [(name, -1.5) for name in names])
  _, *rows = csv.reader(text.splitlines())
  assert [row[0] for row in rows] == [
    "'=1+1", "'+1", "'-1", "'@a", "'\\t=1", "'\\r=1", 'a=1', 'a,"b"', 'c\\x1b[31m', 'caf\\xe9', '花'
  ]  # fmt: skip
  assert {row[1] for row in rows} == {'-1.5'}


def test_markdown_keeps_the_cells():
  assert markdown(HEADER, ROWS).splitlines() == [
    '| task | top-1 |',
    '| --- | --: |',
    '| dtd | 9.50 |',
    r'| a\|b | 71.25 ± 0.10 |',
    '| longer |  |',
  ]


def test_numbers_as_text():
  assert with_deviation(81.2, 0.304) == '81.20 ± 0.30'
  assert with_deviation(81.2, None) == '81.20'
  assert mebibytes(3 * 2**30) == '3,072.0 MiB'
  assert binary_size(3 * 2**30) == '3.00 GiB'
  assert binary_size(2**20) == '1.00 MiB'
