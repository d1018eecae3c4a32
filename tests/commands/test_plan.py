"""`mixer-jax plan`, with the TPU's own compiler."""

import json

import pytest
from PIL import Image

from mixer_jax.__main__ import main
from mixer_jax.planning import compiler
from tests.docs.file_keys import assert_documented

DIGITS = ('plan', '--config=configs/digits.py', '--config.model.dtype=bfloat16')
PAPER = '--config=configs/pretrain.py:'
KEYS = {
  *('topology', 'devices', 'processes', 'fits', 'bytes_per_core', 'flops_per_step'),
  *('collectives', 'compile_seconds', 'estimated_step_seconds', 'share_of_peak'),
  *('images_per_second', 'hours', 'core_days'),
}


@pytest.fixture(scope='module', autouse=True)
def cache(tmp_path_factory):
  """Keep the plans of this file apart from the user's."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setenv('MIXER_JAX_CACHE', str(tmp_path_factory.mktemp('cache')))
    yield


def planned(capsys, *argv: str, code: int = 0) -> dict:
  """Return the JSON of a plan."""
  assert main([*argv, '--json=-']) == code
  report = json.loads(capsys.readouterr().out)
  assert_documented('plan --json', report)
  return report


def test_a_plan_reports_memory_time_and_cost_and_is_cached(capsys, monkeypatch):
  argv = (*DIGITS, '--topology=v3:2x2')
  report = planned(capsys, *argv)
  assert report.keys() >= KEYS
  assert (report['devices'], report['processes'], report['fits']) == (8, 1, True)
  # 142,334 float32 parameters, both moments, two counts and the step.
  assert report['bytes_per_core']['parameters'] == 4 * report['num_parameters']
  assert report['bytes_per_core']['optimizer'] == pytest.approx(
    8 * report['num_parameters'], abs=16
  )
  assert report['bytes_per_core']['batch'] == 128 // 8 * (16 * 16 * 3 + 4)
  assert set(report['collectives']) == {'all-reduce'}
  assert report['estimated_step_seconds'] > 0
  assert 0 < report['share_of_peak'] < 1
  assert report['input']['hardware_threads_per_host'] == 96

  def compile_program(*_):
    raise AssertionError('it is cached')

  monkeypatch.setattr('mixer_jax.planning.plan.compile_program', compile_program)
  assert planned(capsys, *argv) == report
  assert main([*argv]) == 0
  text = capsys.readouterr().out
  for part in (
    'v3-8',
    'fits',
    'all-reduce',
    'of peak',
    'core-days',
    'not measured',
    'built-in rate',
  ):
    assert part in text, part


def test_fully_sharded_parameters_are_gathered_and_activations_stay(capsys):
  flags = ('--config.mesh.data=1', '--config.mesh.fsdp=-1', '--config.model.num_blocks=2')
  whole = planned(capsys, *DIGITS, '--topology=v3:2x2', '--config.model.num_blocks=2')
  report = planned(capsys, *DIGITS, '--topology=v3:2x2', *flags)
  for kind in ('parameters', 'optimizer'):
    assert report['bytes_per_core'][kind] < whole['bytes_per_core'][kind] / 5
  assert 'all-gather' in report['collectives']
  assert not {'all-to-all', 'collective-permute'} & set(report['collectives'])


@pytest.mark.long
def test_micro_batches_count_as_often_as_they_run(capsys):
  argv = (*DIGITS, '--topology=v3:2x2', '--config.model.num_blocks=2', '--config.batch_size=1024')
  whole, parts = planned(capsys, *argv), planned(capsys, *argv, '--config.accumulate=4')
  assert parts['flops_per_step'] == pytest.approx(whole['flops_per_step'], rel=0.05)


def test_a_plan_that_does_not_fit_exits_with_3_and_says_by_how_much(capsys):
  large = (*DIGITS, '--config.model.num_blocks=1', '--config.batch_size=16777216')
  assert main([*large, '--topology=v3:2x2']) == 3
  out, err = capsys.readouterr()
  assert 'does NOT fit' in out
  assert 'does not fit, by' in err
  assert 'GiB per core: --suggest tries changes that may help' in err


def test_a_table_and_a_picture_of_several_slices(capsys, tmp_path):
  argv = (*DIGITS, '--config.model.num_blocks=1', '--config.batch_size=256')
  plot = tmp_path / 'plot.png'
  flags = ('--topologies=v2:2x2,v3:2x2,v3:2x2', f'--plot={plot}', f'--json={tmp_path / "r.json"}')
  assert main([*argv, *flags]) == 0
  table = capsys.readouterr().out.splitlines()
  assert [line.split()[0] for line in table[1:3]] == ['v2:2x2', 'v3:2x2']
  assert [row['devices'] for row in json.loads((tmp_path / 'r.json').read_text())] == [8, 8]
  with Image.open(plot) as image:
    assert image.size[0] > 600


@pytest.mark.parametrize(
  ('argv', 'message'),
  [
    (['--topology=v3:3x3'], 'there are v3:2x2, v3:4x4'),
    (['--topologies=v3:2x2,v7:1'], 'a TPU is one of v2, v3'),
    ([], 'one of the arguments --topology --topologies is required'),
    (['--topology=v3:2x2,v3:4x4'], "no topology 'v3:2x2,v3:4x4'"),
    (['--topologies=v3:2x2', '--json=same', '--plot=same'], 'cannot both go to one place'),
    (['--topologies=v3:2x2', '--plot=-'], '--plot is a picture'),
    (['--topology=v3:2x2', '--plot=x.png'], '--plot draws --topologies'),
    (['--topology=v3:2x2', '--json=/nowhere/x'], 'no folder for --json=/nowhere/x'),
    (['--topologies=v3:2x2,v3:4x4', '--suggest'], '--suggest is for one --topology'),
    (['--topology=v3-9'], 'there are v3-8, v3-32'),
    (['--topology=v3-8', '--input=/nowhere/x'], 'no file /nowhere/x: write it with bench'),
  ],
)
def test_bad_input_is_one_line(argv, message, capsys):
  assert main([*DIGITS, *argv]) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error


def test_without_the_compiler_it_says_how_to_install_it(capsys, monkeypatch):
  find = compiler.importlib.util.find_spec
  monkeypatch.setattr(
    compiler.importlib.util, 'find_spec', lambda name: None if name == 'libtpu' else find(name)
  )
  assert main([*DIGITS, '--topology=v3:2x2', '--config.model.num_blocks=3']) == 2
  assert "pip install 'mixer_jax[tpu]'" in capsys.readouterr().err


@pytest.mark.long
@pytest.mark.parametrize(
  ('run', 'topology'),
  [('B/16,imagenet21k', 'v3:8x8'), ('L/16,imagenet21k', 'v3:8x8'), ('H/14,jft300m', 'v3:16x16')],
)
def test_the_papers_runs_fit_their_slices(run, topology, capsys):
  report = planned(capsys, 'plan', PAPER + run, f'--topology={topology}')
  assert report['fits']
  assert report['recomputed'] < 0.05
  assert report['paper_core_days'] > report['core_days'] / 2


@pytest.mark.long
def test_l16_at_batch_8192_is_too_large_for_eight_cores(capsys):
  flags = (PAPER + 'L/16,imagenet21k', '--topology=v3:2x2', '--config.batch_size=8192')
  assert not planned(capsys, 'plan', *flags, code=3)['fits']


@pytest.mark.long
def test_h14_fully_sharded_moves_parameters_and_not_activations(capsys):
  flags = ('--config.mesh.data=1', '--config.mesh.fsdp=-1')
  report = planned(capsys, 'plan', PAPER + 'H/14,jft300m', '--topology=v3:4x4', *flags)
  size = 4 * report['num_parameters']
  assert report['bytes_per_core']['parameters'] <= size / 16
  assert report['bytes_per_core']['optimizer'] <= 2 * size / 16
  assert report['collectives']['all-gather']['bytes'] > size / 4  # in bfloat16, both ways
  assert not {'all-to-all', 'collective-permute'} & set(report['collectives'])
