"""Lists and groups of fields."""

import pytest

from mixer_jax.errors import UserError
from mixer_jax.runs.fields import flatten, list_text, parse_names, parse_numbers


@pytest.mark.parametrize('value', ['3,10', '3, 10', (3, 10), [3, 10], ('3', '10'), (3.0, 10)])
def test_numbers_in_every_spelling(value):
  assert parse_numbers('config.x', value, int) == (3, 10)
  assert parse_numbers('config.x', value, float) == (3.0, 10.0)


@pytest.mark.parametrize('value', ['', (), 'a', '1,', '1,,2', (1.5,), (True,), None, ('x', 1)])
def test_what_is_no_list_of_whole_numbers(value):
  with pytest.raises(UserError, match=r'config\.x=.*: whole numbers, as in 1,5,10'):
    parse_numbers('config.x', value, int)


def test_names():
  assert parse_names('config.x', 'linear,rbf') == ('linear', 'rbf')
  assert parse_names('config.x', ('linear',)) == ('linear',)
  for value in ('', 'a,,b', (1,), ()):
    with pytest.raises(UserError, match='names, as in a,b,c'):
      parse_names('config.x', value)
  assert list_text((1, 2.5)) == '1,2.5'


def test_flatten():
  assert flatten({'a': {'b': 1, 'c': {}}, 'd': 2}) == {'a.b': 1, 'd': 2}
