"""A run of a ViT or of a ResNet that is killed resumes and ends with the same bits."""

import pytest

from mixer_jax.checkpoints.state_files import read_metadata
from tests.commands.test_resume import (
  assert_same_bits,
  final,
  kill_when,
  last_step,
  saving,
  starts,
)
from tests.helpers import train_runs

pytestmark = pytest.mark.long

STEPS = 40
FLAGS = (
  f'--config.total_steps={STEPS}',
  '--config.checkpoint_every=8',
  '--config.eval_every=20',
  '--config.log_every=1',
  '--config.keep_checkpoints=2',
)


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
  return tmp_path_factory.mktemp('cache')


@pytest.mark.parametrize('family', ['vit', 'resnet'])
def test_killed_at_a_random_step_and_in_a_save(tmp_path, digits_dir, cache, family, rng):
  config, _ = train_runs.FAMILIES[family]
  more = (*FLAGS, *train_runs.family_flags(family))
  start = lambda name: train_runs.start(
    tmp_path / name, digits_dir, *more, cache=cache, config=config
  )

  def finish(name: str) -> None:
    process = start(name)
    output, _ = process.communicate(timeout=500)
    assert process.returncode == 0, output

  finish('undisturbed')
  killed = tmp_path / 'killed'
  kill_when(start('killed'), lambda: saving(killed))
  step = rng.randrange(17, STEPS - 2)
  kill_when(start('killed'), lambda: last_step(killed) >= step)
  finish('killed')
  restored = [row['restored'] for row in starts(killed)]
  assert len(restored) == 3
  assert restored[0] is None
  assert restored[2] is not None
  assert_same_bits(final(killed), final(tmp_path / 'undisturbed'))
  # Also the optimizer's state, by the digests of its leaves.
  same, other = (read_metadata(tmp_path / name / 'checkpoints' / str(STEPS)) for name in (
    'undisturbed', 'killed',
  ))  # fmt: skip
  assert same['digests'] == other['digests']
