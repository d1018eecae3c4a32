"""Compiled programs that are kept, in processes of their own: the setting is JAX's."""

import os
import pathlib
import subprocess
import sys

import pytest

from mixer_jax.errors import UserError
from mixer_jax.runs import compilation_cache

CODE = """
import logging
logging.basicConfig(level='WARNING')
import jax, jax.numpy as jnp
from mixer_jax.runs import compilation_cache
compilation_cache.enable()
hits = []
jax.monitoring.register_event_listener(lambda event, **_: hits.append(event))
jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
print(jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((4, 4)))[0, 0])
print('hits', hits.count('/jax/compilation_cache/cache_hits'))
"""


def start(cache, **more: str) -> str:
  """What a process that keeps what it compiles says."""
  environment = {**os.environ, 'MIXER_JAX_CACHE': str(cache), 'MIXER_JAX_COMPILED_GIB': '', **more}
  done = subprocess.run(
    [sys.executable, '-c', CODE], env=environment, capture_output=True, text=True, check=False
  )
  assert done.returncode == 0, done.stderr
  return done.stdout + done.stderr


def entries(cache: pathlib.Path, kind: str) -> list[pathlib.Path]:
  return sorted((cache / 'compiled').glob(f'*/*-{kind}'))


def test_a_second_start_finds_what_the_first_has_compiled_and_mends_what_a_kill_left(tmp_path):
  assert start(tmp_path).endswith('hits 0\n')
  first = entries(tmp_path, 'cache')
  assert first
  assert not start(tmp_path).endswith('hits 0\n')
  # Killed while it wrote: half an entry, and no time of its use.
  first[0].write_bytes(first[0].read_bytes()[:100])
  entries(tmp_path, 'atime')[0].unlink()
  output = start(tmp_path)
  assert 'rror' not in output
  assert len(entries(tmp_path, 'atime')) == len(entries(tmp_path, 'cache')) == len(first)


@pytest.mark.parametrize('chosen', [False, pytest.param(True, marks=pytest.mark.long)])
def test_a_damaged_program_is_replaced(tmp_path, chosen):
  more = {'JAX_COMPILATION_CACHE_DIR': str(tmp_path / 'own')} if chosen else {}
  start(tmp_path, **more)
  programs = {path: path.read_bytes() for path in tmp_path.rglob('*-cache')}
  for path, program in programs.items():
    middle = len(program) // 2
    path.write_bytes(program[:middle] + bytes([program[middle] ^ 1]) + program[middle + 1 :])
  output = start(tmp_path, **more)
  assert output.endswith('hits 0\n')
  assert 'rror' not in output
  for path, program in programs.items():  # JAX writes the time of compilation into it
    assert abs(len(path.read_bytes()) - len(program)) < 100
  assert start(tmp_path, **more).endswith(f'hits {len(programs)}\n')


def test_it_is_bounded_and_can_be_switched_off(tmp_path):
  start(tmp_path / 'none', MIXER_JAX_COMPILED_GIB='0')
  assert not entries(tmp_path / 'none', 'cache')
  start(tmp_path / 'all')
  sizes = [entry.stat().st_size for entry in entries(tmp_path / 'all', 'cache')]
  assert len(sizes) > 1
  limit = sum(sizes) - 1
  start(tmp_path / 'some', MIXER_JAX_COMPILED_GIB=str(limit / 2**30))
  kept = [entry.stat().st_size for entry in entries(tmp_path / 'some', 'cache')]
  assert 0 < sum(kept) <= limit


def test_a_folder_that_cannot_be_written_is_said_and_fails_nothing(tmp_path):
  (tmp_path / 'file').write_text('')
  output = start(tmp_path / 'file')
  assert (
    'compiled programs are not kept (Not a directory): MIXER_JAX_CACHE names a folder' in output
  )
  assert 'hits 0' in output


def test_a_folder_that_was_chosen_for_jax_is_taken(tmp_path):
  own = tmp_path / 'own'
  start(tmp_path, JAX_COMPILATION_CACHE_DIR=str(own))
  assert list(own.glob('*-cache'))
  assert not (tmp_path / 'compiled').exists()


@pytest.mark.parametrize('size', ['much', '-1', 'nan'])
def test_a_size_that_is_none(monkeypatch, size):
  monkeypatch.setenv(compilation_cache.SIZE_SETTING, size)
  with pytest.raises(UserError, match=f'MIXER_JAX_COMPILED_GIB={size}: give GiB'):
    compilation_cache.enable()
