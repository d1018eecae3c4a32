"""What processes tell each other."""

import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from mixer_jax.errors import ApartError, StorageError, UserError
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


@pytest.mark.parametrize(
  ('error', 'others'),
  [
    (UserError('wrong'), UserError),
    (FileNotFoundError(2, 'no such file'), UserError),
    (StorageError('not now'), StorageError),
    (OSError(5, 'Input/output error'), StorageError),
    (RuntimeError('a defect'), ApartError),
  ],
)
def test_if_one_process_fails_the_others_exit_in_the_same_way(monkeypatch, error, others):
  from jax.experimental import multihost_utils

  gathered = []  # first by the process that fails, then by one that does not
  monkeypatch.setattr(processes, 'is_alone', lambda: False)
  monkeypatch.setattr(
    multihost_utils, 'process_allgather', lambda own: np.array([0, gathered.append(own) or own])
  )

  def fails():
    raise error

  with pytest.raises(type(error)) as here:
    processes.together(fails)
  assert here.value is error
  monkeypatch.setattr(multihost_utils, 'process_allgather', lambda _: np.array([0, *gathered]))
  with pytest.raises(others, match=r'^process 1 .*: see its own') as there:
    processes.together(lambda: 'made')
  assert type(there.value) is others
