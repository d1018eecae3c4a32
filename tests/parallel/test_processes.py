"""What processes tell each other."""

import os
import socket
import subprocess
import sys

from mixer_jax.parallel import membership, processes

GATHER = """
import jax
from mixer_jax.parallel import processes
processes.start(processes.ProcessesConfig(start_seconds=60), preemptible=False)
own = ['', 'ä' * 1000][jax.process_index()]
assert processes.gathered(own) == ['', 'ä' * 1000]
assert processes.gathered('') == ['', '']
processes.leave_together()
print('done')
"""


def test_texts_of_any_length_are_gathered_from_all():
  assert processes.gathered('alone') == ['alone']
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  shared = {**os.environ, membership.COORDINATOR: address, membership.NUM_PROCESSES: '2'}
  started = [
    subprocess.Popen(
      [sys.executable, '-c', GATHER],
      env={**shared, 'XLA_FLAGS': '', membership.PROCESS_ID: str(index)},
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  for process in started:
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said.splitlines()[-1] == 'done'
