"""Config files and overrides: fields that are set, and one line for those that cannot be."""

import shutil
import socket
import subprocess
import sys
import zipfile

import pytest

from mixer_jax import paths
from mixer_jax.__main__ import main as run
from mixer_jax.commands import models
from mixer_jax.commands.flags import Parser
from mixer_jax.errors import UserError
from mixer_jax.runs import config_file
from tests.helpers import train_runs

DIGITS = 'configs/digits.py'


def test_fields_are_set_by_the_type_they_have():
  config = config_file.load_config(
    DIGITS,
    [
      '--config.total_steps=60',
      '--config.data.flip=true',
      '--config.mesh.data=-1',
      '--config.model.stochastic_depth=1e-1',
      '--config.init_from=a=b',
      '--config.optimizer.learning_rate=1',
    ],
  )
  assert config['total_steps'] == 60
  assert config['data']['flip'] is True
  assert config['mesh']['data'] == -1
  assert config['model']['stochastic_depth'] == 0.1
  assert config['init_from'] == 'a=b'
  assert config['optimizer']['learning_rate'] == 1.0
  assert isinstance(config['optimizer']['learning_rate'], float)


def test_a_pattern_sets_a_field_in_all_groups():
  study = 'configs/transfer.py:digits'
  overrides = [
    '--config.tasks.*.batch_size=16',
    '--config.tasks.vtab/*.optimizer.learning_rate=1',
    '--config.tasks.vtab/dtd.batch_size=32',
  ]
  for name, config in config_file.load_config(study, overrides)['tasks'].items():
    assert config['batch_size'] == (32 if name == 'vtab/dtd' else 16)
    assert config['optimizer']['learning_rate'] == (1 if name.startswith('vtab/') else 0.01)
  for override, message in (
    ('tasks.*.batch_siz=1', 'did you mean config.tasks.'),
    ('tasks.vtba/*.batch_size=1', "no field 'tasks.vtba/.*.batch_size': did you mean"),
    ('tasks.*.batch_size=x', r'config.tasks.\*.batch_size is a whole number'),
    ('tasks.*.data=x', r'config.tasks.\*.data is a group of fields'),
  ):
    with pytest.raises(UserError, match=message):
      config_file.load_config(study, [f'--config.{override}'])


@pytest.mark.parametrize(
  ('override', 'message'),
  [
    ('total_step=60', "no field 'total_step': did you mean config.total_steps?"),
    ('optimizer.learning_rat=1', 'did you mean config.optimizer.learning_rate?'),
    ('learning_rate=1', 'did you mean config.optimizer.learning_rate?'),
    ('zzz=1', "no field 'zzz'"),
    ('total_steps.x=1', "no field 'total_steps.x'"),
    ('total_steps=6.5', "config.total_steps is a whole number (now 1200), not '6.5'"),
    ('data.flip=maybe', "config.data.flip is true or false (now False), not 'maybe'"),
    ('optimizer.learning_rate=fast', 'is a number'),
    ('data=digits', 'config.data is a group of fields: set one of'),
  ],
)
def test_what_cannot_be_set_is_named(override, message):
  with pytest.raises(UserError) as error:
    config_file.load_config(DIGITS, [f'--config.{override}'])
  assert message in str(error.value)
  assert '\n' not in str(error.value)


def test_config_files_that_are_missing_or_broken(tmp_path):
  with pytest.raises(UserError, match=r'no config file configs/none\.py: there are .*digits\.py, '):
    config_file.load_config('configs/none.py', [])
  broken = tmp_path / 'configs' / 'broken.py'
  broken.parent.mkdir()
  for text, message in (
    ('def get_config(:', 'SyntaxError'),
    ('x = 1', "KeyError: 'get_config'"),
    ('def get_config():\n  return 1 / 0', 'ZeroDivisionError'),
    ('raise SystemExit(3)', 'SystemExit'),
    ('def get_config():\n  return {}', 'does not return a ConfigDict'),
  ):
    broken.write_text(text)
    with pytest.raises(UserError, match=message):
      config_file.load_config(str(broken), [])


def test_an_argument_after_a_colon_reaches_the_config(tmp_path):
  path = tmp_path / 'study.py'
  path.write_text(
    'from ml_collections import ConfigDict\n'
    'def get_config(arg="none"):\n  return ConfigDict({"model": arg})\n'
  )
  assert config_file.load_config(f'{path}:B/16,x', [])['model'] == 'B/16,x'
  assert config_file.load_config(str(path), [])['model'] == 'none'


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    ([], 'the following arguments are required: --config'),
    (
      ['--config=a', '--config.x', '3'],
      r'unknown argument --config\.x: write --config\.field=value',
    ),
    (['--config=a', '--conf=b'], 'unknown argument --conf=b'),
  ],
)
def test_flags_that_do_not_exist(argv, message):
  parser = Parser('train', '')
  parser.add_config(required=True)
  with pytest.raises(UserError, match=message):
    parser.parse(argv)


@pytest.mark.parametrize(
  'error',
  [socket.gaierror(-2, 'Name or service not known'), ConnectionRefusedError(111, 'refused')],
)
def test_a_network_that_does_not_answer_is_one_line_and_worth_another_try(
  error, monkeypatch, capsys
):
  def fail(argv):
    raise error

  monkeypatch.setattr(models, 'main', fail)
  assert run(['models']) == 74
  shown = capsys.readouterr().err
  assert shown.count('\n') == 1
  assert 'the network does not answer' in shown


def written(folder, helper: int, config: str):
  """Write a config file and a module beside it; return the file."""
  folder.mkdir()
  (folder / 'my_helper.py').write_text(f'STEPS = {helper}\n')
  file = folder / 'own.py'
  file.write_text(f'import my_helper\nfrom ml_collections import *\n{config}')
  return file


def test_a_module_beside_a_config_file_is_its_own(tmp_path):
  body = 'def get_config():\n  return ConfigDict({"steps": my_helper.STEPS})\n'
  path = list(sys.path)
  one, two = (written(tmp_path / str(n), n, body) for n in (1, 2))
  for file, steps in ((one, 1), (two, 2), (one, 1)):
    assert config_file.load_config(str(file)) == {'steps': steps}
  assert sys.path == path


def test_frozen_groups_paths_and_numbers_of_numpy_become_plain(tmp_path):
  body = """
import numpy as np, pathlib
def get_config():
  inner = FrozenConfigDict({'place': pathlib.Path('/data'), 'rate': 0.5, 'shots': (1, 5)})
  config = ConfigDict({'inner': inner, 'seed': np.int64(3), 'share': np.float32(0.5)})
  config.total = config.get_ref('seed') * 2
  return FrozenConfigDict(config) if my_helper.STEPS else config
"""
  for frozen in (0, 1):
    file = str(written(tmp_path / str(frozen), frozen, body))
    config = config_file.load_config(file, ['--config.inner.rate=2', '--config.inner.place=/b'])
    inner = {'place': '/b', 'rate': 2.0, 'shots': (1, 5)}
    assert config == {'inner': inner, 'seed': 3, 'share': 0.5, 'total': 6}
    assert (type(config['seed']), type(config['share'])) == (int, float)


@pytest.mark.parametrize(
  'value', ['lambda: 1', 'np.zeros(2)', '[[[[[[[[[[[[1]]]]]]]]]]]]', '10**400']
)
def test_a_value_that_no_field_has_is_refused(tmp_path, value):
  body = f'import numpy as np\ndef get_config():\n  return ConfigDict({{"a": {value}}})\n'
  with pytest.raises(UserError, match=r'^config\.a ') as error:
    config_file.load_config(str(written(tmp_path / 'a', 1, body)))
  assert '\n' not in str(error.value)


def test_the_configs_of_an_installed_package_are_found_after_those_that_are_here(
  tmp_path, monkeypatch
):
  installed = tmp_path / 'mixer_jax' / 'experiments' / 'configs'
  here = tmp_path / 'project' / 'configs'
  config = 'from configs import {}\nfrom ml_collections import ConfigDict\n'
  config += 'get_config = lambda: ConfigDict({{"value": {}.VALUE}})\n'
  for folder, name, text in (
    (installed, 'of_package', 'VALUE = 1'),
    (installed, 'of_both', 'VALUE = 2'),
    (installed, 'shipped', config.format('of_package', 'of_package')),
    (here, 'of_both', 'VALUE = 3'),
    (here, 'mine', config.format('of_both', 'of_both')),
    (here, 'other', config.format('of_package', 'of_package')),
  ):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f'{name}.py').write_text(text)
  monkeypatch.setattr(paths, '_PACKAGE', tmp_path / 'mixer_jax')
  monkeypatch.chdir(tmp_path / 'project')
  path = list(sys.path)
  for name, value in {'mine': 3, 'other': 1, 'shipped': 1}.items():
    assert config_file.load_config(f'configs/{name}.py') == {'value': value}
  assert sys.path == path
  with pytest.raises(UserError, match=r'no config file configs/none\.py: there are mine\.py, '):
    config_file.load_config('configs/none.py')
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError, match=r'there are of_both\.py, of_package\.py, shipped\.py'):
    config_file.load_config('configs/none.py')


@pytest.mark.long
def test_a_wheel_holds_every_module_and_the_configs(tmp_path):
  tree = tmp_path / 'tree'  # without what earlier builds have left
  for folder in ('mixer_jax', 'configs'):
    shutil.copytree(train_runs.ROOT / folder, tree / folder)
  for file in ('setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
    shutil.copy(train_runs.ROOT / file, tree)
  command = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation']
  subprocess.run([*command, '-w', tmp_path, tree], check=True)
  (wheel,) = tmp_path.glob('*.whl')
  names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith('.py')}
  modules = (train_runs.ROOT / 'mixer_jax').rglob('*.py')
  expected = {str(path.relative_to(train_runs.ROOT)) for path in modules}
  configs = (train_runs.ROOT / 'configs').glob('*.py')
  assert names == expected | {f'mixer_jax/experiments/configs/{path.name}' for path in configs}
