"""The table of slices: sizes, names, and agreement with the compiler."""

import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from mixer_jax.errors import UserError
from mixer_jax.planning import topologies
from mixer_jax.planning.compiler import ENVIRONMENT

ALL = [
  f'{kind}:{layout}'
  for kind, generation in topologies.GENERATIONS.items()
  for layout in generation.layouts
]


@pytest.mark.parametrize(
  ('name', 'devices', 'accelerator'),
  [
    ('v2:2x2', 8, 'v2-8'),
    ('v3:2x2', 8, 'v3-8'),
    ('v3:4x4', 32, 'v3-32'),
    ('v3:8x8', 128, 'v3-128'),
    ('v3:16x16', 512, 'v3-512'),
    ('v4:2x2x1', 4, 'v4-8'),
    ('v4:4x4x4', 64, 'v4-128'),
    ('v5e:2x4', 8, 'v5litepod-8'),
    ('v5p:2x2x2', 8, 'v5p-16'),
    ('v6e:4x4', 16, 'v6e-16'),
  ],
)
def test_a_slice_has_its_devices_and_its_name_in_gcloud(name, devices, accelerator):
  topology = topologies.find(name)
  assert (topology.devices, topology.accelerator) == (devices, accelerator)


ASK = """
import json, sys
from jax.experimental import topologies as slices
from mixer_jax.planning import topologies
found = {}
for name in json.load(sys.stdin):
  devices = slices.get_topology_desc(name, 'tpu', **topologies.find(name).options).devices
  found[name] = len(devices), len({device.process_index for device in devices})
json.dump(found, sys.stdout)
"""


def test_the_compiler_counts_the_same_devices():
  done = subprocess.run(
    [sys.executable, '-c', ASK],
    input=json.dumps(ALL),
    env={**os.environ, **ENVIRONMENT},
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stderr == ''  # libtpu writes nothing
  found = json.loads(done.stdout)
  for name in ALL:
    assert found[name][0] == topologies.find(name).devices, name
    assert found[name][1] == topologies.find(name).hosts, name
  assert found['v3:8x8'][1] == 16
  assert found['v5e:2x4'][1] == found['v5e:1x1'][1] == 1


@pytest.mark.parametrize(
  ('name', 'threads'),
  [
    ('v2-8', 96),
    ('v3-128', 96),
    ('v4-16', 240),
    ('v5litepod-1', 24),
    ('v5litepod-4', 112),
    ('v5litepod-8', 224),
    ('v5litepod-16', 112),  # hosts of four chips
    ('v5p-16', 208),
    ('v6e-1', 44),
    ('v6e-8', 180),
    ('v6e-256', 180),
  ],
)
def test_a_host_has_the_hardware_threads_of_its_machine_type(name, threads):
  assert topologies.find(name).host_threads == threads


def test_a_slice_is_also_found_by_the_name_that_gcloud_uses():
  names = [f'{kind}:{one}' for kind, own in topologies.GENERATIONS.items() for one in own.layouts]
  slices = [topologies.find(name) for name in names]
  assert [topologies.find(one.accelerator) for one in slices] == slices
  assert topologies.find('v3-8').name == 'v3:2x2'
  assert topologies.find('v5litepod-8').name == 'v5e:2x4'


def test_the_names_of_tpu_vm_are_known():
  script = (pathlib.Path(__file__).parents[2] / 'launch' / 'tpu_vm.sh').read_text()
  (line,) = (line for line in script.splitlines() if line.startswith('--type='))
  names = re.findall(r'v\d[a-z]*-\d+', line)
  assert len(names) == 6
  for name in names:
    assert topologies.find(name).accelerator == name


@pytest.mark.parametrize(
  ('name', 'message'),
  [
    ('v3:3x3', 'there are v3:2x2, v3:4x4'),
    ('v3', 'there are v3:2x2'),
    ('v9:2x2', 'a TPU is one of v2, v3, v4, v5e, v5p, v6e'),
    ('4x4', 'as in v3:4x4'),
    ('v3-9', 'there are v3-8, v3-32'),
    ('v5e-8', 'there are v5litepod-1, v5litepod-4, v5litepod-8, '),
    ('V3-8', r'did you mean v3-8 .*: a TPU is one of'),
    ('v5litepod', 'did you mean v5litepod-8'),
    ('v4:2x2', 'v4:2x2x1'),
  ],
)
def test_for_an_unknown_slice_the_known_ones_are_listed(name, message):
  with pytest.raises(UserError, match=message):
    topologies.find(name)
