"""Plans from the facts of a compiler, and the cache of facts."""

import dataclasses
import json
import subprocess
import sys

import pytest

from configs import pretrain
from mixer_jax.models import VARIANTS
from mixer_jax.planning import plan as plans
from mixer_jax.planning import topologies
from mixer_jax.planning.compiler import Compiled, Facts, Program
from mixer_jax.training.mixup import MixupConfig
from tests.helpers import configs

GIB = 2**30
PROGRAM = Program(
  topology='v3:4x4',
  mesh=(32, 1, 1),
  model=dataclasses.replace(VARIANTS['B/16'], dtype='bfloat16'),
  optimizer=configs.optimizer(),
  total_steps=1000,
  loss='softmax',
  batch_size=1024,
  accumulate=1,
  mixup=MixupConfig(),
  eval_batch_size=512,
  eval_level='uint8',
)
STEP = Compiled(
  seconds=10.0, temporaries=3 * GIB, flops=2e12, bytes_accessed=9e9, optimal_seconds=0.05
)
EVALUATION = Compiled(
  seconds=5.0, temporaries=GIB, flops=5e11, bytes_accessed=1e9, optimal_seconds=0.01
)
FACTS = Facts(
  devices=32,
  processes=4,
  parameters=1 * GIB,
  optimizer=2 * GIB,
  batch=GIB // 2,
  step=STEP,
  evaluation=EVALUATION,
)


def plan(step=STEP, evaluation: Compiled | None = EVALUATION, data='', **edits) -> plans.Plan:
  facts = dataclasses.replace(FACTS, step=step, evaluation=evaluation)
  return plans.Plan(dataclasses.replace(PROGRAM, **edits), data, facts)


def test_times_and_costs_follow_from_the_compilers_estimate():
  report = plan().report()
  assert report['fits'] is True
  assert report['bytes_per_core'] == {
    'parameters': GIB,
    'optimizer': 2 * GIB,
    'batch': GIB // 2,
    'temporaries': 3 * GIB,
    'limit': round(15.48 * GIB),
  }
  assert report['needed_bytes_per_core'] == 6.5 * GIB
  assert report['flops_per_step'] == 32 * 2e12
  assert report['estimated_step_seconds'] == 0.05
  assert report['estimate'] == 'compiler'
  assert report['share_of_peak'] == pytest.approx(2e12 / 0.05 / 61.5e12)
  assert report['images_per_second'] == pytest.approx(1024 / 0.05)
  assert report['evaluation_images_per_second'] == pytest.approx(512 / 0.01)
  assert report['hours'] == pytest.approx(1000 * 0.05 / 3600)
  assert report['core_days'] == pytest.approx(1000 * 0.05 / 86_400 * 32)
  assert report['compile_seconds'] == 15.0
  assert report['paper_core_days'] is None


def test_without_an_estimate_of_the_compiler_it_is_a_roofline():
  report = plan(dataclasses.replace(STEP, optimal_seconds=None)).report()
  assert report['estimate'] == 'roofline'
  assert report['estimated_step_seconds'] == pytest.approx(max(2e12 / 61.5e12, 9e9 / 450e9))


@pytest.mark.parametrize('which', ['step', 'evaluation'])
def test_a_plan_that_does_not_fit_has_no_times(which):
  large = Compiled(seconds=3.0, needed=20.5 * GIB)
  made = plan(**{which: large, **({'evaluation': None} if which == 'step' else {})})
  report = made.report()
  assert report['fits'] is False
  assert made.needed == 20.5 * GIB
  for key in ('estimated_step_seconds', 'images_per_second', 'hours', 'core_days', 'share_of_peak'):
    assert report[key] is None
  json.dumps(report)


@pytest.mark.parametrize(
  ('arg', 'days'),
  [
    ('B/16,imagenet2012', 10),
    ('L/16,imagenet2012', 40),
    ('B/16,imagenet21k', 150),
    ('L/16,imagenet21k', 410),
    ('S/32,jft300m', 10),
    ('L/16,jft300m', 450),
    ('H/14,jft300m', 1010),
  ],
)
def test_the_papers_runs_are_recognised_by_their_configs(arg, days):
  config = pretrain.get_config(arg)
  edits = {'batch_size': config.batch_size, 'model': VARIANTS[arg.split(',')[0]]}
  made = plan(data=config.data.name, total_steps=config.total_steps, **edits)
  assert made.report()['paper_core_days'] == days
  half = plan(data=config.data.name, total_steps=config.total_steps // 3, **edits)
  assert half.report()['paper_core_days'] is None
  sam = plan(
    data=config.data.name,
    total_steps=config.total_steps,
    optimizer=configs.optimizer(sam_rho=0.1),
    **edits,
  )
  assert sam.report()['paper_core_days'] is None


def test_recomputed_work_is_reported():
  plain = 3 * 25.2e9 * 1024 / 32  # matrix multiplies only
  assert plan(dataclasses.replace(STEP, flops=1.17 * plain)).recomputed() == pytest.approx(
    0.17, abs=0.01
  )
  assert plan(dataclasses.replace(STEP, flops=0.9 * plain)).recomputed() == 0
  twice = plan(
    dataclasses.replace(STEP, flops=2.3 * plain), optimizer=configs.optimizer(sam_rho=0.1)
  )
  assert twice.recomputed() == pytest.approx(0.15, abs=0.01)


def test_suggestions_change_one_thing_each_and_enough_of_it():
  made = plan(Compiled(seconds=1.0, needed=60 * GIB), None)
  tried = dict(plans.suggestions(made))
  assert list(tried) == [
    'model.remat=True',
    'mesh.data=1 mesh.fsdp=32',
    'accumulate=8',  # 57 GiB that grow with the batch, 12.48 free
    'batch_size=128 total_steps=8000',
  ]
  with_remat = dataclasses.replace(PROGRAM.model, remat=True)
  assert tried['model.remat=True'].model == with_remat
  assert tried['mesh.data=1 mesh.fsdp=32'].mesh == (1, 32, 1)
  assert tried['accumulate=8'].accumulate == 8
  smaller = tried['batch_size=128 total_steps=8000']
  assert smaller.batch_size * smaller.total_steps == made.images
  assert all(program.eval_batch_size == 0 for program in tried.values())
  small = plan(model=dataclasses.replace(PROGRAM.model, remat=True), mesh=(1, 32, 1), batch_size=32)
  assert list(plans.suggestions(small)) == []


def test_if_evaluation_is_too_large_a_smaller_evaluation_batch_is_suggested():
  made = plan(evaluation=Compiled(seconds=1.0, needed=60 * GIB), eval_batch_size=65_536)
  assert (made.fits, made.too_large) == (False, 'evaluation')
  ((change, program),) = plans.suggestions(made)
  assert (change, program.eval_batch_size) == ('eval_batch_size=1024', 1024)


def test_a_plan_is_made_even_if_its_folder_cannot_be_written(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(plans, 'compile_program', lambda *_: FACTS)
  (tmp_path / 'file').write_text('')
  made = plans.plan_program(PROGRAM, folder=tmp_path / 'file' / 'plans')
  assert made.fits
  assert 'MIXER_JAX_CACHE' in caplog.text


def test_the_same_program_is_compiled_once(tmp_path, monkeypatch):
  compiled = []

  def compile_program(program, waiting):
    compiled.append(program)
    return FACTS

  monkeypatch.setattr(plans, 'compile_program', compile_program)
  make = lambda program: plans.plan_program(program, folder=tmp_path / 'plans')
  assert make(PROGRAM).report() == make(PROGRAM).report()
  assert len(compiled) == 1
  longer = dataclasses.replace(PROGRAM, total_steps=2000)
  assert make(longer).report()['hours'] == 2 * make(PROGRAM).report()['hours']
  assert len(compiled) == 1  # the compiler's answer does not depend on the number of updates
  make(dataclasses.replace(PROGRAM, batch_size=512))
  monkeypatch.setattr(plans, '_version', lambda name: 'another')
  make(PROGRAM)
  assert len(compiled) == 3
  for path in (tmp_path / 'plans').iterdir():
    path.write_text('{')  # damaged
  make(PROGRAM)
  assert len(compiled) == 4
  for path in (tmp_path / 'plans').iterdir():
    path.write_text(json.dumps({**dataclasses.asdict(FACTS), 'parameters': 'many'}))
  make(PROGRAM)
  assert len(compiled) == 5
  for path in (tmp_path / 'plans').iterdir():
    path.write_text(path.read_text().replace('"devices": 32', '"devices": 36'))
  make(PROGRAM)
  assert len(compiled) == 6


LOADED = """
import sys
import mixer_jax.planning.compiler
print(*{name.split('.')[1] for name in sys.modules if name.startswith('mixer_jax.')})
"""


def test_the_key_of_a_plan_covers_the_code_that_is_compiled():
  done = subprocess.run([sys.executable, '-c', LOADED], capture_output=True, text=True, check=True)
  # Of `data` only the names of a batch's arrays are loaded.
  without_effect = {'errors', 'hardware', 'home', 'paths', 'data'}
  assert set(done.stdout.split()) - without_effect == set(plans._COMPILED_ROOMS)


def test_every_generation_has_plausible_numbers():
  for generation in topologies.GENERATIONS.values():
    chip = generation.chip
    assert 7 * GIB < chip.memory < 96 * GIB
    assert 50 < chip.peak / chip.bandwidth < 600  # FLOP per byte
