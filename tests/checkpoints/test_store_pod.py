"""The states of a pod: all processes have the same verdict on a state that one cannot read."""

import os
import pathlib
import socket
import subprocess
import sys

import pytest

_ROOT = pathlib.Path(__file__).parents[2]

_PROCESS = """
import pathlib
import sys

from mixer_jax.parallel import processes
processes.start(processes.ProcessesConfig(start_seconds=100), preemptible=False)

import jax
from mixer_jax.checkpoints import state_files
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import StorageError
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from tests.checkpoints.test_store import ADAM, CONFIG, METADATA, abstract

folder, fault = sys.argv[1:]
mesh = meshes.make_mesh(fsdp=2)
store = Store(folder, keep=3)
parts = lambda mesh, seed: steps.init_state(CONFIG, ADAM, mesh, seed).parts()
for step in (10, 20):
  store.save(step, parts(mesh, step), METADATA)
store.wait()

load, tries = state_files._load, []

def failing(path, abstract):
  if path.name == '20' and jax.process_index() == 1:
    tries.append(path)
    if fault == 'unread':
      raise OSError(5, 'Input/output error')
    raise DamagedError('bytes are wrong')
  return load(path, abstract)

state_files._load = failing
try:
  found = store.restore(abstract(mesh))
  print('restored', found and found[0])
  store.save(30, parts(mesh, 30), METADATA)
  store.wait()
except StorageError as error:
  print('unread', error)
processes.barrier('the end')
print('left', sorted(path.name for path in pathlib.Path(folder, 'checkpoints').iterdir()))
processes.leave_together()
"""


def _run(folder: pathlib.Path, fault: str) -> list[list[str]]:
  """Return the lines of each of two processes."""
  with socket.socket() as free:
    free.bind(('127.0.0.1', 0))
    address = f'127.0.0.1:{free.getsockname()[1]}'
  started = [
    subprocess.Popen(
      [sys.executable, '-W', 'ignore', '-c', _PROCESS, str(folder), fault],
      cwd=_ROOT,
      env={
        **os.environ,
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': '--xla_force_host_platform_device_count=1',
        'JAX_CPU_COLLECTIVES_IMPLEMENTATION': 'gloo',
        'MIXER_JAX_COORDINATOR': address,
        'MIXER_JAX_NUM_PROCESSES': '2',
        'MIXER_JAX_PROCESS_ID': str(index),
        'MIXER_JAX_RETRY_SECONDS': '1',
      },
      stdin=subprocess.DEVNULL,
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
    )
    for index in range(2)
  ]
  try:
    said = [process.communicate(timeout=200)[0] for process in started]
  finally:
    for process in started:
      process.kill()
  assert [process.returncode for process in started] == [0, 0], said
  firsts = ('restored', 'unread', 'left')
  return [[line for line in text.splitlines() if line.startswith(firsts)] for text in said]


@pytest.mark.long
def test_a_state_that_one_process_cannot_read_stays_as_it_is(tmp_path):
  said = _run(tmp_path, 'unread')
  assert said[0] == said[1]
  assert said[0][0].startswith(f'unread {tmp_path}/checkpoints/20 cannot be read now: Input/output')
  assert said[0][1] == "left ['10', '20']"


@pytest.mark.long
def test_a_state_that_is_damaged_for_one_process_is_set_aside_by_all(tmp_path):
  said = _run(tmp_path, 'damaged')
  assert said[0] == said[1] == ['restored 10', "left ['10', '20.damaged', '30']"]
