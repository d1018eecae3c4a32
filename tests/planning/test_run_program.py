"""The program of a run on a slice, and configs that do not fit a slice."""

import io

import pytest

from mixer_jax.errors import UserError
from mixer_jax.models import paper
from mixer_jax.planning import plan as plans
from mixer_jax.planning.run_program import program_of
from mixer_jax.runlog import terminal
from tests.helpers import configs
from tests.planning.test_plan import FACTS


def digits(**fields):
  return configs.run_config('configs/digits.py', **fields)


def test_the_program_is_that_of_the_config():
  config = digits()
  program = program_of(config, 'v3:2x2')
  assert program.mesh == (8, 1, 1)
  assert program.model.image_size == 16
  assert (program.batch_size, program.total_steps) == (config.batch_size, config.total_steps)
  assert (program.optimizer, program.mixup) == (config.optimizer, config.mixup)
  assert program.eval_batch_size == config.eval_batch_size
  assert program.eval_level == 'float32'  # of the recipe of digits


def test_epochs_count_the_images_of_the_paper():
  config = configs.run_config('configs/pretrain.py:L/16,jft300m', total_epochs=7.0)
  program = program_of(config, 'v3:8x8')
  images = program.total_steps * program.batch_size
  assert paper.core_days(program.model, 'jft300m', images) == 230


@pytest.mark.parametrize(
  ('topology', 'fields', 'message'),
  [
    ('v3:3x3', {}, 'there are v3:2x2, v3:4x4'),
    ('v3:2x2', {'mesh.fsdp': 3}, 'does not make a mesh of 8 devices'),
    ('v3:2x2', {'mesh.fsdp': 4294967296}, 'does not make a mesh of 8'),
    ('v3:8x8', {}, 'eval_batch_size 360 cannot be shared evenly by 128 devices: take 384'),
    ('v3:2x2', {'batch_size': 9}, 'cannot be shared evenly by 8 devices'),
  ],
)
def test_a_config_that_does_not_fit_the_slice_is_rejected(topology, fields, message):
  with pytest.raises(UserError, match=message):
    program_of(digits(**fields), topology)


def test_all_slices_are_checked_before_one_is_compiled(monkeypatch, tmp_path):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path))
  compiled = []

  def compile_program(program, waiting):
    compiled.append(program.topology)
    return FACTS

  monkeypatch.setattr(plans, 'compile_program', compile_program)
  with pytest.raises(UserError, match='a TPU is one of v2, v3'):
    plans.plan_all(digits(), ['v3:2x2', 'v7:1'])
  assert compiled == []
  made = plans.plan_all(digits(), ['v3:2x2', 'v2:2x2', 'v3:2x2'])
  assert [plan.topology.name for plan in made] == compiled == ['v3:2x2', 'v2:2x2']


@pytest.mark.parametrize('is_live', [True, False])
def test_progress_names_the_slice_its_number_and_the_step(monkeypatch, tmp_path, is_live):
  stream = io.StringIO()
  monkeypatch.setattr(stream, 'isatty', lambda: is_live)
  monkeypatch.setattr(terminal, '_installed', terminal.Terminal(stream))
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path))

  def compile_program(program, waiting):
    waiting('training', 3.0)
    waiting('evaluation', 41.0)
    return FACTS

  monkeypatch.setattr(plans, 'compile_program', compile_program)
  plans.plan_all(digits(), ['v3:2x2', 'v2:2x2'])
  lines = stream.getvalue().splitlines()
  name = 'compiling Mixer of 4 blocks, width 64 for'
  if is_live:
    assert lines[-1].endswith(f'{name} v2:2x2, 2 of 2, evaluation step: 41 s')
  else:
    assert lines == [f'{name} v3:2x2, 1 of 2', f'{name} v2:2x2, 2 of 2']


def test_a_run_is_planned_from_python(monkeypatch, tmp_path):
  monkeypatch.setenv('MIXER_JAX_CACHE', str(tmp_path))
  monkeypatch.setattr(plans, 'compile_program', lambda *_: FACTS)
  made = plans.plan(digits(), 'v3:2x2')
  assert made.program == program_of(digits(), 'v3:2x2')
  assert made.fits
  assert len(list((tmp_path / 'plans').glob('*.json'))) == 1
