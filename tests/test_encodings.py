"""Outputs whose encoding is not UTF-8."""

import os
import subprocess
import sys

import pytest

RUN = """
import sys
from mixer_jax.__main__ import entry
for command in {commands!r}:
  sys.argv = ['mixer-jax', *command]
  try:
    entry()
  except SystemExit as error:
    assert not error.code
"""


C_LOCALE = {'LC_ALL': 'C', 'PYTHONUTF8': '0', 'PYTHONCOERCECLOCALE': '0'}


@pytest.mark.parametrize(
  'setting', [{'PYTHONIOENCODING': 'ascii'}, {'PYTHONIOENCODING': 'latin-1'}, C_LOCALE]
)
def test_help_and_tables_are_printed(setting):
  environment = {k: v for k, v in os.environ.items() if not k.startswith(('LC_', 'LANG'))}
  done = subprocess.run(
    [sys.executable, '-c', RUN.format(commands=[['--help'], ['train', '--help'], ['models']])],
    env={**environment, **setting},
    capture_output=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr == b''
  assert b'FLAGS' in done.stdout
  assert b'B/16' in done.stdout
