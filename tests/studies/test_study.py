"""Runs of a study, and its files."""

import json
from typing import Any

import pytest

from mixer_jax.errors import ApartError, NotFiniteError, StorageError, UserError
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies import study, study_config
from mixer_jax.studies.run import STUDIES, run_study
from mixer_jax.studies.study import Variation


@pytest.fixture(scope='module')
def config() -> RunConfig:
  """The experiment of configs/digits.py, from seed 5."""
  return RunConfig.from_fields(load_config('configs/digits.py', ['--config.seed=5']))


def test_runs_are_expanded_by_seed_model_and_variation(config):
  vary = lambda model, own: [
    Variation(f'{model} in {n}', f'{model}/{n}', {'total_steps': n * own.seed}, {'n': n})
    for n in (1, 2)
  ]
  runs = study.expand({'a': config, 'b': config}, 2, 'w', vary)
  assert [run.folder for run in runs] == [
    *('w/a/1/5', 'w/a/2/5', 'w/b/1/5', 'w/b/2/5'),
    *('w/a/1/6', 'w/a/2/6', 'w/b/1/6', 'w/b/2/6'),
  ]
  last = runs[-1]
  assert last.name == 'b in 2, seed 6'
  assert dict(last.labels) == {'model': 'b', 'n': 2}
  assert (last.config.seed, last.config.total_steps) == (6, 10)
  assert config.seed == 5
  wrong = lambda model, own: [Variation(f'{model} in 0', model, {'total_steps': 0})]
  with pytest.raises(UserError, match=r'a in 0, seed 5: .*total_steps'):
    study.expand({'a': config}, 1, 'w', wrong)


class Reporter:
  """A report of one text file."""

  def text(self, values):
    return f'{values}\n'

  def files(self, values):
    return {'x.txt': ' '.join(values['curve'])}


def test_experiments_are_fields_or_run_configs(config):
  found = study_config.experiments('models', {'b': config, 'a': config.to_fields()})
  assert list(found.items()) == [('a', config), ('b', config)]
  with pytest.raises(UserError, match=r'^models\.a: .*total_steps'):
    study_config.experiments('models', {'a': {**config.to_fields(), 'total_steps': 0}})


def test_files_are_written_from_what_the_json_file_holds(tmp_path):
  (tmp_path / 'x.json').write_text('of an earlier study')
  report = study.write(str(tmp_path), 'x', {'curve': {3: 1.0}}, Reporter(), {'x.npz': b'0'})
  assert report.values == {'curve': {'3': 1.0}} == json.loads((tmp_path / 'x.json').read_text())
  assert (tmp_path / 'x.txt').read_text() == '3'
  assert sorted(path.name for path in tmp_path.iterdir()) == ['x.json', 'x.npz', 'x.txt']
  assert str(report) == f"{{'curve': {{'3': 1.0}}}}\nx.json, x.npz and x.txt are in {tmp_path}"


def test_a_study_takes_no_workdir_that_cannot_hold_it(tmp_path):
  study.check_workdir(str(tmp_path / 'new' / 'study'))
  (tmp_path / 'file').touch()
  (tmp_path / 'run').mkdir()
  (tmp_path / 'run' / 'config.json').touch()
  (tmp_path / 'other' / 'permute.png').mkdir(parents=True)
  for place, message in (
    ('file', 'is no folder'),
    ('file/below', 'is no folder'),
    ('run', 'is the workdir of a run'),
    ('other', r'permute\.png is a folder'),
  ):
    with pytest.raises(UserError, match=message):
      study.check_workdir(str(tmp_path / place))


def test_the_name_of_a_run_keeps_the_kind_of_an_error():
  for kind in (UserError, StorageError, ApartError):
    with pytest.raises(kind, match='mixer, seed 3: full') as error, study.named('mixer, seed 3'):
      raise kind('full')
    assert type(error.value) is kind
  with pytest.raises(NotFiniteError, match=r'^nan'), study.named('mixer, seed 3'):
    raise NotFiniteError('nan')


def test_a_picture_that_fails_leaves_the_figures(tmp_path, caplog):
  class Broken(Reporter):
    def files(self, values):
      raise RuntimeError('no font')

  report = study.write(str(tmp_path), 'x', {'curve': {}}, Broken(), {'x.npz': b'0'})
  assert report.files == ('x.json', 'x.npz')
  assert caplog.messages == ['the picture of x.json was not drawn: RuntimeError: no font']


def test_studies_are_called_as_their_commands(tmp_path):
  assert sorted(STUDIES) == ['cka-study', 'permute', 'prune', 'scaling', 'sweep', 'transfer']
  with pytest.raises(UserError, match="no study is called 'scale': there are cka-study, permute"):
    run_study('scale', {}, str(tmp_path))
  with pytest.raises(UserError, match='overrides are of a config file'):
    run_study('scaling', {}, str(tmp_path), overrides={'seeds': 2})
  for name in ('cka-study', 'permute', 'scaling', 'transfer'):
    more: dict[str, Any] = {'suite': 'vtab'} if name == 'transfer' else {}
    with pytest.raises(UserError, match=r'the config has the fields .*: begin with configs/'):
      run_study(name, {'seeds': 1}, str(tmp_path), **more)


def test_an_error_that_may_pass_is_not_called_wrong_input():
  with pytest.raises(StorageError), study.named('a run'):
    raise StorageError('the disk is full')
  with pytest.raises(UserError, match='a run: wrong'), study.named('a run'):
    raise UserError('wrong')
