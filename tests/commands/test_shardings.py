"""`mixer-jax shardings` against what real devices hold."""

import json

import jax
import pytest

from configs import digits
from mixer_jax.__main__ import main
from mixer_jax.models import MixerConfig
from mixer_jax.parallel import mesh as meshes
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import OptimizerConfig, make_optimizer, make_schedule


def held_by_the_first_device(sizes: tuple[int, int, int]) -> dict[str, int]:
  """Bytes that a real state of the digits config has on one of eight devices."""
  config = digits.get_config()
  optimizer_config = OptimizerConfig(**config.optimizer)
  optimizer = make_optimizer(optimizer_config, make_schedule(optimizer_config, config.total_steps))
  state = steps.init_state(MixerConfig(**config.model), optimizer, meshes.make_mesh(*sizes), 0)

  def first(tree) -> int:
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in jax.tree.leaves(tree))

  return {'parameters': first(state.params), 'optimizer': first((state.opt_state, state.step))}


@pytest.mark.parametrize('sizes', [(8, 1, 1), (1, 8, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)])
def test_the_bytes_are_those_that_devices_hold(sizes, capsys):
  flags = [f'--config.mesh.{axis}={size}' for axis, size in zip(meshes.AXES, sizes, strict=True)]
  argv = ['shardings', '--config=configs/digits.py', '--devices=8', *flags]
  assert main([*argv, '--json']) == 0
  sums = json.loads(capsys.readouterr().out)
  for kind, size in held_by_the_first_device(sizes).items():
    assert sums[kind]['a_device'] == size
  assert main(argv) == 0
  text = capsys.readouterr().out
  assert 'MixerBlock_*/token_mixing/Dense_0/kernel' in text
  assert 'stem/kernel' in text


def test_devices_need_not_be_here(capsys):
  flags = ['--config=configs/common.py', '--config.mesh.data=1', '--config.mesh.fsdp=-1']
  assert main(['shardings', *flags, '--devices=32', '--json']) == 0
  sums = json.loads(capsys.readouterr().out)
  assert sums['mesh'] == {'data': 1, 'fsdp': 32, 'model': 1}
  for kind in ('parameters', 'optimizer'):
    assert sums[kind]['whole'] / sums[kind]['a_device'] > 16
  assert sums['parameters']['whole'] == 4 * 59_880_472


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--devices=0'], '--devices must be at least 1'),
    (['--devices=8', '--config.mesh.fsdp=3'], 'does not make a mesh of 8 devices'),
    (['--devices=7'], 'batch_size 128 cannot be shared evenly by 7 devices: take 126'),
    ([], 'the following arguments are required: --devices'),
  ],
)
def test_bad_input_is_one_line(argv, message, capsys):
  assert main(['shardings', '--config=configs/digits.py', *argv]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
