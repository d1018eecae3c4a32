"""docs/files.md has every key of the files that commands write.

The tests of commands compare their own files; here are those of benchmarks/results and of a run.
"""

import gzip
import json

import pytest

from mixer_jax.__main__ import main
from mixer_jax.runlog.metrics import read_metrics
from tests.docs.file_keys import assert_documented, documented, undocumented
from tests.helpers import train_runs

RESULTS = train_runs.ROOT / 'benchmarks' / 'results'


@pytest.mark.parametrize(
  ('file', 'name'),
  [
    ('prune_digits', 'prune.json'),
    ('permutation_digits', 'permute.json'),
    ('scaling_digits', 'scaling.json'),
    ('cka_study_digits', 'cka_study.json'),
  ],
)
def test_results_of_studies(file, name):
  assert_documented(name, json.loads((RESULTS / f'{file}.json').read_text()))


@pytest.mark.long
def test_a_run_and_what_is_made_of_it(digits_dir, tmp_path, compiled, capsys):
  run = tmp_path / 'run'
  more = ('--config.data.train_split=train[:20%]', '--config.data.test_split=test[:64]')
  few = ('--config.fewshot.every=1', '--config.fewshot.seeds=1', '--config.keep_best=True')
  assert train_runs.train(run, digits_dir, *more, *few) == 0
  for row in read_metrics(run):
    assert_documented('metrics.jsonl', row)
  assert_documented('config.json', json.loads((run / 'config.json').read_text()))
  record = gzip.decompress((run / 'data.json.gz').read_bytes())
  assert_documented('data.json.gz', json.loads(record))
  checkpoint, output = f'--checkpoint={run}', f'--output={tmp_path / "x"}'
  figures = tmp_path / 'x.json'
  commands = {
    'evaluate': ('evaluate --json', [checkpoint, f'--per-class={tmp_path / "x.csv"}']),
    'fewshot': ('fewshot --json', [checkpoint, '--seeds=1', '--shots=1']),
    'probe': ('probe --json', [checkpoint, '--iterations=2']),
    'identify': ('identify --json', [checkpoint, f'--other={run}', output]),
  }
  for command, (name, flags) in commands.items():
    assert main([command, *flags, f'--json={figures}']) == 0
    assert_documented(name, json.loads(figures.read_text()))
  header = (tmp_path / 'x.csv').read_text().splitlines()[0]
  assert_documented('evaluate --per-class', dict.fromkeys(header.split(',')))
  assert_documented('identify.npz', tmp_path / 'x.npz')
  assert main(['cka', checkpoint, output]) == 0
  assert_documented('cka.npz', tmp_path / 'x.npz')
  assert main(['weights', checkpoint, output]) == 0
  assert_documented('weights.npz', tmp_path / 'x.npz')
  capsys.readouterr()
  assert main(['inspect', str(run), '--json']) == 0
  assert_documented('inspect --json', json.loads(capsys.readouterr().out))
  assert main(['shardings', '--config=configs/digits.py', '--devices=2', '--json']) == 0
  assert_documented('shardings --json', json.loads(capsys.readouterr().out))


def test_a_key_that_is_not_documented_is_found():
  values = {'fields': {'a.b': [1]}, 'rows': [{'values': {'a.b': 1}, 'median': 2}], 'best': None}
  assert undocumented('sweep.json', values) == ['rows[].median']
  assert undocumented('cka.npz', {'cka': 0, 'hsic': 0}) == ['hsic']


def test_keys_are_documented_once():
  for name, keys in documented().items():
    twice = {key for key in keys if keys.count(key) > 1} - {('devices',), ('data',)}
    assert not twice, f'{name}: {twice}'
