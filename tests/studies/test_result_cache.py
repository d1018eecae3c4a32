"""Measurements that are taken once and kept."""

import json

import pytest
from etils import epath

from mixer_jax.errors import UserError
from mixer_jax.studies.result_cache import ResultCache

ABOUT = {'checkpoint': 'abc', 'batch': 8}


def test_a_value_is_measured_once_and_read_by_the_next_command(tmp_path):
  path = epath.Path(tmp_path) / 'study' / 'measured.json'
  cache = ResultCache(path, ABOUT)
  assert not path.exists()
  assert cache.get_or_measure('a', lambda: (1, 0.1)) == [1, 0.1]  # as JSON gives it back
  cache.add({'b': {'top1': 99.0}})
  again = ResultCache(path, ABOUT)
  assert again.get_or_measure('a', lambda: pytest.fail('measured twice')) == [1, 0.1]
  assert 'b' in again
  assert again['b'] == {'top1': 99.0}
  assert 'c' not in again
  assert [entry.name for entry in path.parent.iterdir()] == ['measured.json']


def test_what_is_measured_of_something_else_is_refused(tmp_path):
  path = epath.Path(tmp_path) / 'measured.json'
  ResultCache(path, ABOUT).add({'a': 1})
  with pytest.raises(UserError, match='is of another study: its batch is 8, not 16'):
    ResultCache(path, {**ABOUT, 'batch': 16})


@pytest.mark.parametrize('text', ['{"about": {', '[]', json.dumps({'values': {}})])
def test_a_damaged_file_is_refused(text, tmp_path):
  path = epath.Path(tmp_path) / 'measured.json'
  path.write_text(text)
  with pytest.raises(UserError, match=r'measured\.json is damaged'):
    ResultCache(path, ABOUT)
