"""What is measured once, and kept whole."""

import json

import pytest
from etils import epath

from mixer_jax.errors import UserError
from mixer_jax.studies.result_cache import Memo

ABOUT = {'checkpoint': 'abc', 'batch': 8}


def test_a_value_is_measured_once_and_read_by_the_next_command(tmp_path):
  path = epath.Path(tmp_path) / 'study' / 'measured.json'
  memo = Memo(path, ABOUT)
  assert not path.exists()
  assert memo.get('a', lambda: (1, 0.1)) == [1, 0.1]  # as JSON gives it back
  memo.keep({'b': {'top1': 99.0}})
  again = Memo(path, ABOUT)
  assert again.get('a', lambda: pytest.fail('measured twice')) == [1, 0.1]
  assert 'b' in again
  assert again['b'] == {'top1': 99.0}
  assert 'c' not in again
  assert [entry.name for entry in path.parent.iterdir()] == ['measured.json']


def test_what_is_measured_of_something_else_is_refused(tmp_path):
  path = epath.Path(tmp_path) / 'measured.json'
  Memo(path, ABOUT).keep({'a': 1})
  with pytest.raises(UserError, match='is of another study: its batch is 8, not 16'):
    Memo(path, {**ABOUT, 'batch': 16})


@pytest.mark.parametrize('text', ['{"about": {', '[]', json.dumps({'values': {}})])
def test_a_damaged_file_is_refused(text, tmp_path):
  path = epath.Path(tmp_path) / 'measured.json'
  path.write_text(text)
  with pytest.raises(UserError, match=r'measured\.json is damaged'):
    Memo(path, ABOUT)
