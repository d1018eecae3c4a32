"""Shell scripts pass shellcheck and shfmt, which are installed with the tests."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]
SCRIPTS = [*sorted(str(path) for path in (ROOT / 'launch').glob('*.sh')), str(ROOT / '.ci' / 'run')]


@pytest.mark.parametrize('tool', [('shellcheck',), ('shfmt', '-i', '2', '-ci', '-d')])
def test_scripts_are_clean(tool):
  found = shutil.which(tool[0], path=os.path.dirname(sys.executable))
  assert found, f'{tool[0]} is not next to {sys.executable}: it comes with the extra [test]'
  done = subprocess.run([found, *tool[1:], *SCRIPTS], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stdout + done.stderr
