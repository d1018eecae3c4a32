"""Tables of text."""

from mixer_jax.pictures.text_tables import aligned, markdown

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
