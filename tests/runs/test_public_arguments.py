"""Wrong arguments of the public functions: one line that says what they take."""

import pathlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import UserError
from mixer_jax.runs.evaluators import registry
from mixer_jax.runs.experiment import build_experiment
from tests.helpers import train_runs

ROOT = train_runs.ROOT
PUBLIC: Any = mixer_jax  # types that pyright would refuse
DIGITS = ROOT / 'configs' / 'digits.py'


@pytest.mark.parametrize(
  ('call', 'message'),
  [
    (lambda: PUBLIC.load_config(5), 'read from FILE or FILE:ARG, not 5'),
    (lambda: PUBLIC.load_config(DIGITS, ['seed=1']), 'overrides are field -> value'),
    (lambda: PUBLIC.load_config(DIGITS, {'data.data_dir': None}), 'data.data_dir is None'),
    (lambda: PUBLIC.load_config(DIGITS, {'config.seed': 1}), "superfluous 'config.'"),
    (lambda: PUBLIC.train(str(DIGITS), 'run'), 'train takes a RunConfig, as load_config'),
    (lambda: PUBLIC.train(PUBLIC.load_config(DIGITS), 'gs:/run'), 'write gs://run'),
    (lambda: PUBLIC.load_for_evaluation('x', str(DIGITS)), 'config is a RunConfig'),
    (lambda: list(PUBLIC.predict('x', [])), 'images are paths of files'),
    (lambda: list(PUBLIC.predict('x', [np.zeros(3)])), 'images are paths of files'),
    (lambda: list(PUBLIC.predict('x', np.zeros((1, 8, 8, 3)))), 'images are paths of files'),
    (lambda: list(PUBLIC.predict('x', Image.new('L', (8, 8)))), 'images are paths of files'),
    (lambda: list(PUBLIC.predict('x', 'a.png', top=2.5)), 'top must be a whole number'),
    (lambda: list(PUBLIC.predict('x', 'nothing.png')), 'nothing.png'),
    (lambda: PUBLIC.run_study('scaling', None, 'w'), 'a file or its fields, not None'),
    (lambda: PUBLIC.run_study('prune', {}, 'w'), 'the study prune: missing a required argument'),
    (lambda: PUBLIC.run_study('permute', {}, 'w', checkpoint='x'), 'the study permute: got an'),
  ],
)
def test_wrong_arguments_are_reported_in_one_line(call, message, monkeypatch, tmp_path):
  monkeypatch.chdir(tmp_path)
  with pytest.raises(UserError) as caught:
    call()
  assert message in str(caught.value)
  assert '\n' not in str(caught.value)
  assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
  ('evals', 'message'),
  [
    ({'a': {'kind': ['probe']}}, 'config.evals.a.kind must be one of'),
    ({'a': {}}, 'config.evals.a.kind must be one of'),
    ({'a.b': {'kind': 'probe'}}, "a row called 'a.b'"),
    ({'': {'kind': 'probe'}}, "a row called ''"),
    ({'end': {'kind': 'probe'}}, "a row called 'end'"),
    ({'a': {'kind': 'probe', 'split': 5}}, 'config.evals.a.split must be a string, is 5'),
    ({'a': {'kind': 'probe', 'layers': 'blok_0'}}, "config.evals.a.layers: no layer 'blok_0'"),
    (
      {'a': {'kind': 'probe', 'layers': 'stem,stem'}},
      'config.evals.a.layers names one twice',
    ),
    ({'a': {'kind': 'classification', 'name': ('x',)}}, 'config.evals.a.name must be a string'),
  ],
)
def test_wrong_evaluations_are_refused_before_training(evals, message, digits_dir):
  fields = {'data.data_dir': str(digits_dir), 'model.num_blocks': 1, 'evals': evals}
  with pytest.raises(UserError) as caught:
    build_experiment(mixer_jax.load_config(DIGITS).with_fields(fields))
  assert message in str(caught.value)


def test_a_split_that_is_no_string_is_refused():
  config = mixer_jax.load_config(DIGITS)
  for name, value in {'data.train_split': ('train',), 'data.flip': 'zz'}.items():
    with pytest.raises(UserError, match=f'config.{name} must be'):
      config.with_fields({name: value})


def test_every_kind_has_a_module():
  assert set(registry.KINDS) == {'classification', 'few_shot', 'probe'}
  for module in registry.KINDS.values():
    assert (ROOT / pathlib.Path(*module.split('.'))).with_suffix('.py').is_file()
