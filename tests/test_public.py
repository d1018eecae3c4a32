"""Names that can be imported from `mixer_jax`."""

import ast
import pathlib

import pytest

import mixer_jax


@pytest.mark.parametrize('name', mixer_jax.__all__)
def test_every_public_name_resolves(name):
  assert getattr(mixer_jax, name) is not None
  assert name in dir(mixer_jax)


def test_the_lists_of_public_names_agree():
  assert {*mixer_jax._HOMES, '__version__'} == set(mixer_jax.__all__)
  tree = ast.parse(pathlib.Path(str(mixer_jax.__file__)).read_text())
  for_type_checkers = {
    alias.asname or alias.name: f'{node.module}:{alias.name}'
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and (node.module or '').startswith('mixer_jax')
    for alias in node.names
  }
  homes = {
    name: home if ':' in home else f'{home}:{name}' for name, home in mixer_jax._HOMES.items()
  }
  assert for_type_checkers == homes


def test_overrides_of_a_config_are_written_as_on_the_command_line():
  config = mixer_jax.load_config(
    'configs/digits.py',
    {'optimizer.learning_rate': 1e-2, 'data.flip': True, 'fewshot.shots': (1, 5), 'seed': 3},
  )
  fields = config.to_fields()
  assert fields['optimizer']['learning_rate'] == 0.01
  assert fields['data']['flip'] is True
  assert fields['fewshot']['shots'] == '1,5'
  assert fields['seed'] == 3
  with pytest.raises(mixer_jax.UserError, match='learning_rate'):
    mixer_jax.load_config('configs/digits.py', {'optimizer.learning_rate': 'fast'})
