"""Tables of text."""

from mixer_jax.pictures.text_tables import aligned, binary_size, markdown, mebibytes, with_deviation

HEADER = ('task', 'top-1')
ROWS = [('dtd', '9.50'), ('a|b', '71.25 ± 0.10'), ('longer', '')]


def test_columns_are_aligned():
  assert aligned(HEADER, ROWS).splitlines() == [
    'task           top-1',
    'dtd             9.50',
    'a|b     71.25 ± 0.10',
    'longer',
  ]


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
