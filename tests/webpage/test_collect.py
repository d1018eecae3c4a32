"""Pages built from Python: what is read from workdirs, and errors for other folders."""

import json
import os
import pathlib

import pytest

from mixer_jax.errors import UserError
from mixer_jax.webpage import collect


def write_run(folder: pathlib.Path, *rows: dict) -> pathlib.Path:
  folder.mkdir(parents=True)
  (folder / 'metrics.jsonl').write_text(''.join(json.dumps(row) + '\n' for row in rows))
  return folder


def test_a_page_is_built_from_paths_of_any_kind(tmp_path):
  run = write_run(tmp_path / 'run', {'step': 1, 'loss': 0.5}, {'step': 2, 'loss': 0.25})
  study = write_run(tmp_path / 'study' / 'seed0', {'step': 1, 'loss': 0.5}).parent
  (study / 'study.json').write_text('{"accuracy": 0.125}')
  document = collect.build_page([run, str(study), str(run)])
  assert document.summary == '1 training run and 1 study'
  for text in ('seed0', '0.125', 'its settings cannot be read'):
    assert text in document.html
  assert document.html.startswith('<!doctype html>')
  assert 'data-points="1 0.5 2 0.25"' in document.html


def test_names_are_as_short_as_they_can_be():
  paths = [collect.user_path(name) for name in ('/a/x/run', '/a/y/run')]
  assert collect._short_names(paths[:1]) == ['run']
  assert collect._short_names(paths) == ['x/run', 'y/run']


def test_large_and_strange_files_are_left_out_and_named(tmp_path, monkeypatch):
  monkeypatch.setitem(collect._MAX_BYTES, '.json', 2**20)
  write_run(tmp_path / 'run', {'step': 1, 'loss': 0.5})
  (tmp_path / 'large.json').write_text('1' * (2**20 + 1))
  (tmp_path / 'text.json').write_text('no JSON')
  os.mkfifo(tmp_path / 'pipe.json')
  (tmp_path / 'text.png').write_text('no PNG')
  html = collect.build_page([tmp_path]).html
  assert 'large.json is left out: it is larger than 1 MiB' in html
  assert 'text.json is left out: it is not JSON (' in html
  assert 'pipe.json is left out: it is not a regular file' in html
  assert 'text.png is left out: it is not a PNG' in html


def test_folders_without_a_run_or_study_are_rejected(tmp_path):
  with pytest.raises(UserError, match=r'no folder .*nowhere: name the workdir of a run'):
    collect.build_page([tmp_path / 'nowhere'])
  with pytest.raises(UserError, match='holds no run and no study'):
    collect.build_page([tmp_path])
