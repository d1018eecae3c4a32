"""Outputs that are closed, full or read by nobody."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from mixer_jax.runlog import streams
streams.open_streams(output_is_result={result})
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for number in range(3):
  print('result', number)
  print('log', number, file=sys.stderr)
sys.stdout.flush()
os.write(file, str(sorted(streams.lost())).encode())
"""


def run(redirection: str, file, *, result: bool = False) -> subprocess.CompletedProcess:
  """Run `PROGRAM` from a shell; it writes to `file` which outputs it has lost."""
  program = PROGRAM.format(result=result)
  command = ['bash', '-c', f'"$0" -c "$1" "$2" {redirection}', sys.executable, program, str(file)]
  return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
  ('redirection', 'lost'),
  [('2>&-', []), ('>&- 2>&- <&-', []), ('>/dev/full 2>/dev/full', ['stderr', 'stdout'])],
)
def test_an_output_that_fails_is_discarded(tmp_path, redirection, lost):
  done = run(redirection, tmp_path / 'lost')
  assert done.returncode == 0, done.stderr
  # Nothing else is in the file: it did not get the number of a closed stream.
  assert (tmp_path / 'lost').read_text() == str(lost)


def test_a_pipe_that_nobody_reads_is_discarded(tmp_path):
  read, write = os.pipe()
  os.close(read)
  command = [sys.executable, '-c', PROGRAM.format(result=False), str(tmp_path / 'lost')]
  assert subprocess.run(command, stdout=write, stderr=write, check=False).returncode == 0
  os.close(write)
  assert (tmp_path / 'lost').read_text() == "['stderr', 'stdout']"


def test_results_that_cannot_be_written_are_an_error(tmp_path):
  done = run('>/dev/full', tmp_path / 'lost', result=True)
  assert done.returncode != 0
  assert 'StorageError: stdout cannot be written now: No space left on device' in done.stderr


def test_a_full_pipe_that_does_not_block_is_waited_for(tmp_path):
  read, write = os.pipe()
  os.set_blocking(write, False)
  program = PROGRAM.format(result=False).replace("'log', number", "'log' * 50_000")
  command = [sys.executable, '-c', program, str(tmp_path / 'lost')]
  with subprocess.Popen(command, stderr=write, stdout=subprocess.DEVNULL):
    os.close(write)
    text = b''
    while part := os.read(read, 2**16):
      text += part
  os.close(read)
  assert text == (b'log' * 50_000 + b'\n') * 3
  assert (tmp_path / 'lost').read_text() == '[]'
