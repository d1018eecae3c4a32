"""Runs that were begun by each earlier format of states resume and evaluate.

`tests/golden/run_*.tar.gz` are workdirs as they were after step 4 of 8, and `*.expected.npz` the
parameters and the evaluation of the same runs at step 8, all computed on two devices by the code of
their time: a run of 8 steps, of which the state of step 8 and what follows step 4 was removed.

  first        the first commit that trained: no checksum, no standing, `data.eval_resize`
  recipes      evaluation recipes by name, `model.gelu`, `model.head_bias`, `model.input_range`
  augment      mixup, all fields of the inception crop, RandAugment
  permuted     model families, permuted images
  best         early stopping, the best state
  0.1.0_*      `init_head` and `init_blocks`; the last without a number of the format
"""

import json
import pathlib
import tarfile

import numpy as np
import pytest

from mixer_jax.__main__ import main
from mixer_jax.checkpoints.run_states import read_params
from mixer_jax.models.parameters import flatten
from tests.helpers import train_runs

GOLDEN = train_runs.ROOT / 'tests' / 'golden'
SHARED = ('--config.total_steps=8', '--config.checkpoint_every=4')
TINY = (
  *SHARED,
  '--config.eval_every=2',
  '--config.model.hidden_dim=8',
  '--config.model.tokens_mlp_dim=4',
  '--config.model.channels_mlp_dim=8',
)
FLAGS = {
  'first': (
    *TINY,
    '--config.model.image_size=8',
    '--config.data.eval_crop_fraction=1.0',
    '--config.data.eval_recipe=resmall-crop',
  ),
  'recipes': TINY,
  'augment': (
    *TINY,
    '--config.mixup=0.2',
    '--config.data.flip=true',
    '--config.data.min_crop_area=0.3',
    '--config.data.randaugment_layers=1',
    '--config.data.randaugment_magnitude=10.0',
  ),
  'permuted': (*TINY, '--config.data.permutation=patches', '--config.data.permutation_patch=4'),
  'best': (
    *TINY,
    '--config.keep_best=true',
    '--config.early_stopping.metric=loss',
    '--config.early_stopping.patience=4',
  ),
  '0.1.0_mixer': (
    *TINY,
    '--config.fewshot.every=2',
    '--config.fewshot.shots=1,2',
    '--config.fewshot.seeds=1',
  ),
  '0.1.0_resnet': (*SHARED, '--config.eval_every=4'),
}
TINY_RESNET = """
from configs import common, digits

def get_config():
  config = digits.get_config()
  common.resnet(config)
  config.model.update(stages='1,1', width=0.125, stem='cifar', groups=2)
  return config
"""


FAST = ('first', '0.1.0_mixer')
RUNS = [name if name in FAST else pytest.param(name, marks=pytest.mark.long) for name in FLAGS]


@pytest.fixture(params=RUNS)
def run(request, tmp_path) -> tuple[str, pathlib.Path, str]:
  """(name, workdir, config file) of a run that was stopped after step 4."""
  with tarfile.open(GOLDEN / f'run_{request.param}.tar.gz') as archive:
    archive.extractall(tmp_path, filter='data')
  (tmp_path / 'tiny_resnet.py').write_text(TINY_RESNET)
  resnet = request.param == '0.1.0_resnet'
  config = str(tmp_path / 'tiny_resnet.py') if resnet else 'configs/digits.py'
  return request.param, tmp_path / 'run', config


def test_a_run_of_an_earlier_format_resumes(run, digits_dir):
  name, workdir, config = run
  process = train_runs.start(workdir, digits_dir, *FLAGS[name], config=config)
  output, _ = process.communicate(timeout=300)
  assert process.returncode == 0, output
  expected = np.load(GOLDEN / f'run_{name}.expected.npz')
  params = flatten(read_params(workdir / 'checkpoints' / '8')[1])
  assert {*params, 'top1', 'loss'} == set(expected)
  for path, array in params.items():
    np.testing.assert_allclose(array, expected[path], rtol=0, atol=1e-6, err_msg=path)
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  assert [row['step'] for row in rows if row.get('event') == 'start'] == [0, 4]
  last = [row for row in rows if row.get('event') == 'eval'][-1]
  assert last['step'] == 8
  assert last['top1'] == expected['top1']
  assert last['loss'] == pytest.approx(float(expected['loss']), abs=1e-6)


def test_a_state_of_an_earlier_format_is_evaluated(run, digits_dir, capsys):
  _, workdir, _ = run
  rows = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
  expected = next(row for row in rows if row.get('event') == 'eval' and row['step'] == 4)
  data = f'--config.data.data_dir={digits_dir}'
  assert main(['evaluate', f'--checkpoint={workdir}', '--json=-', data]) == 0
  figures = json.loads(capsys.readouterr().out.splitlines()[-1])
  assert figures['step'] == 4
  assert figures['top1'] == expected['top1']
  assert figures['loss'] == pytest.approx(expected['loss'], abs=1e-6)
