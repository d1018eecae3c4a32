"""The command line: what it sets before JAX starts, and what it says when it is interrupted."""

import os
import pathlib
import subprocess
import sys
import types

import jax
import pytest

from mixer_jax import __main__, hardware
from mixer_jax.__main__ import COMMANDS, RESUMABLE, main
from mixer_jax.errors import RESUMES
from mixer_jax.parallel import processes

NOT_RESUMED = ('bench',)
"""Commands with a --workdir that they do not resume from."""


def python(code: str, **environment: str) -> str:
  own = {k: v for k, v in os.environ.items() if k not in ('JAX_PLATFORMS', 'EPATH_USE_TF')}
  done = subprocess.run(
    [sys.executable, '-c', code],
    env={**own, **environment},
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  return done.stdout.splitlines()[-1]


SHOW = "import os; print([os.environ.get(name) for name in ('JAX_PLATFORMS', 'EPATH_USE_TF')])"


def test_importing_the_library_sets_no_platform():
  assert python(f'import mixer_jax, mixer_jax.paths; {SHOW}') == "[None, 'false']"
  assert python(f'import mixer_jax; {SHOW}', EPATH_USE_TF='true') == "[None, 'true']"


COMMAND = f"""
from mixer_jax import hardware
from mixer_jax.__main__ import main
hardware.jax_platforms = lambda: 'cpu'
try:
  main(['train', '--help'])
except SystemExit:
  pass
{SHOW}
"""


def test_a_command_sets_the_platform_before_jax_is_imported():
  assert python(COMMAND) == "['cpu', 'false']"
  assert python(COMMAND, JAX_PLATFORMS='tpu') == "['tpu', 'false']"
  assert python(f'import jax\n{COMMAND}') == "[None, 'false']"


@pytest.mark.parametrize(
  ('libtpu', 'tpu', 'nvidia', 'wanted'),
  [
    (False, False, False, None),
    (True, True, False, None),
    (True, False, False, 'cpu'),
    (True, False, True, 'cuda,cpu'),
  ],
)
def test_platforms_are_chosen_only_if_libtpu_has_no_tpu(
  libtpu, tpu, nvidia, wanted, monkeypatch, tmp_path
):
  monkeypatch.delenv('TPU_NAME', raising=False)
  monkeypatch.delenv('TPU_WORKER_HOSTNAMES', raising=False)
  spec = lambda name: object() if libtpu and name == 'libtpu' else None
  monkeypatch.setattr(hardware.importlib.util, 'find_spec', spec)
  monkeypatch.setattr(hardware, 'has_tpu', lambda: tpu)
  monkeypatch.setattr(hardware, '_NVIDIA', tmp_path if nvidia else pathlib.Path('/nowhere'))
  assert hardware.jax_platforms() == wanted
  if libtpu and not tpu:
    monkeypatch.setenv('TPU_NAME', 'slice')
    assert hardware.jax_platforms() is None


def test_every_command_that_resumes_a_workdir_says_so_when_it_is_interrupted(capsys, monkeypatch):
  with_workdir = []
  for command in COMMANDS:
    with pytest.raises(SystemExit):
      main([command, '--help'])
    text = capsys.readouterr().out
    assert '--import MODULE' in text
    if '--workdir' in text:
      with_workdir.append(command)
  assert sorted(RESUMABLE) == sorted(set(with_workdir) - {*NOT_RESUMED})

  def interrupted(argv):
    raise KeyboardInterrupt

  module = types.SimpleNamespace(main=interrupted)
  monkeypatch.setattr(__main__.importlib, 'import_module', lambda name: module)
  for command in COMMANDS:
    assert main([command]) == 130
    error = capsys.readouterr().err
    assert error.startswith('mixer-jax: interrupted')
    assert (RESUMES in error) == (command in RESUMABLE)


@pytest.mark.parametrize(
  ('message', 'alone', 'code'),
  [
    ('UNKNOWN: Gloo AllGather failed: Connection reset by peer', False, 69),
    ('UNAVAILABLE: Socket closed', False, 69),
    ('UNAVAILABLE: Socket closed', True, None),
    ('INVALID_ARGUMENT: shapes', False, None),
  ],
)
def test_a_lost_process_of_a_pod_is_one_line(message, alone, code, capsys, monkeypatch):
  def fail(_):
    raise jax.errors.JaxRuntimeError(message)

  monkeypatch.setattr(processes, 'is_alone', lambda: alone)
  monkeypatch.setitem(sys.modules, 'mixer_jax.commands.models', types.SimpleNamespace(main=fail))
  if code is None:
    with pytest.raises(jax.errors.JaxRuntimeError):
      main(['models'])
    return
  assert main(['models']) == code
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith('mixer-jax: another process of the pod is gone (')
