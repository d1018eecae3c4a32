"""The list of fields in `train --help`, which is read from the text of configs/common.py."""

import pytest

from configs import common
from mixer_jax.runs import config_comments
from mixer_jax.runs.config_comments import Field, read_fields
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.fields import flatten, list_text
from tests.helpers.train_runs import ROOT

SOURCE = '''
def get_config():
  """Return it."""
  config = ConfigDict()
  # Not of a field.

  config.seed = 0  # of all
  # A list
  # of numbers.
  config.shots = values(1, 5)  # several
  config.names = values()
  config.group = ConfigDict()  # a group
  config.group.text = 'a # b'  # text
  config.group.flag = True
  config.threads = auto()
  return config
'''


def test_values_and_comments_are_read():
  assert read_fields(SOURCE) == [
    Field('seed', '0', 'of all'),
    Field('shots', '1,5', 'A list of numbers. several'),
    Field('names', '', ''),
    Field('group', None, 'a group'),
    Field('group.text', 'a # b', 'text'),
    Field('group.flag', 'true', ''),
    Field('threads', 'auto', ''),
  ]


def test_every_field_has_the_value_of_the_config_and_a_comment():
  fields = read_fields((ROOT / 'configs' / 'common.py').read_text())
  config = common.get_config()
  values = {name: list_text(x) if isinstance(x, tuple) else str(x)
            for name, x in flatten(config.to_dict()).items()}  # fmt: skip
  read = {field.name: field.value for field in fields if field.value is not None}
  assert {name: text.lower() for name, text in read.items()} == {
    name: text.lower() for name, text in values.items()
  }
  assert [field.name for field in fields if not field.comment] == []
  assert len({field.name for field in fields}) == len(fields)


@pytest.mark.parametrize('width', [40, 98, 300])
def test_lines_fit_and_every_value_can_be_given_as_it_is_shown(width):
  lines = config_comments.help_text(width).splitlines()
  assert max(map(len, lines)) <= max(width, 34 + 20 + 10)
  shown = [line.split('  ')[1] for line in lines if line[:2] == '  ' and line[2] != ' ']
  flags = [f'--config.{text.strip()}' for text in shown if '=' in text]
  assert len(flags) > 80
  expected = common.get_config().to_dict()
  assert load_config(str(ROOT / 'configs' / 'common.py'), flags) == expected


def test_no_list_where_the_file_is_not_there(monkeypatch, tmp_path):
  monkeypatch.setattr(config_comments, '_FILE', tmp_path / 'common.py')
  assert config_comments.help_text(80) == ''
