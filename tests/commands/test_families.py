"""Every command with a model of each family, or the one line that says what does not apply.

What the tests of a command do with a Mixer is not repeated here.
"""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import models
from mixer_jax.__main__ import main
from mixer_jax.checkpoints.store import Store
from mixer_jax.runs import initial_model
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.run_config import RunConfig
from tests.helpers import train_runs
from tests.helpers.factories import random_params

MODELS = {
  'mixer': {
    'patch_size': 4,
    'num_blocks': 2,
    'hidden_dim': 16,
    'tokens_mlp_dim': 8,
    'channels_mlp_dim': 32,
  },
  'vit': {'patch_size': 4, 'num_blocks': 2, 'hidden_dim': 16, 'mlp_dim': 32, 'num_heads': 2},
  'resnet': {'stages': '1,1', 'width': 0.125, 'stem': 'cifar', 'groups': 4},
}
"""Family -> fields of a model with two blocks."""

VARIANTS = {
  'mixer': 'Mixer of 2 blocks, width 16',
  'vit': 'ViT of 2 blocks, width 16',
  'resnet': "ResNet-8x0.125 with CIFAR's stem",
}

CONFIG = """
from ml_collections import ConfigDict

from configs import common, digits

MODELS = {models!r}


def experiment(family):
  config = digits.get_config()
  common.use_family(config, family)
  config.model.update(MODELS[family])
  config.data.permutation_patch = 4
  return config


def get_config(arg):
  if arg in MODELS:
    return experiment(arg)
  study = ConfigDict({{'seeds': 1, 'models': {{family: experiment(family) for family in MODELS}}}})
  if arg == 'cka':
    study.update(layers='block_*', features='flatten', kernels='linear', bandwidth=0.5)
    study.probe = ConfigDict({{'l2': 1e-3, 'iterations': 5}})
  return study
"""


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> str:
  """A config file: an experiment of each family by its name, or a study of the three."""
  file = tmp_path_factory.mktemp('config') / 'families.py'
  file.write_text(CONFIG.format(models=MODELS))
  return str(file)


@pytest.fixture(scope='module')
def runs(config, digits_dir, tmp_path_factory) -> dict:
  """Family -> workdir of a run, whose weights are drawn: training would only take time."""
  folder, found = tmp_path_factory.mktemp('runs'), {}
  for family in MODELS:
    flags = train_runs.flags(folder / family, digits_dir, config=f'{config}:{family}')
    experiment = RunConfig.from_fields(load_config(f'{config}:{family}', flags[3:]))
    store = Store(folder / family, keep=1)
    params = random_params(initial_model.model_of(experiment))
    store.save(6, {'params': params}, build_experiment(experiment).metadata())
    store.wait()
    found[family] = folder / family
  return found


@pytest.fixture(scope='module')
def picture(tmp_path_factory) -> str:
  file = tmp_path_factory.mktemp('picture') / 'noise.png'
  levels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  Image.fromarray(levels).save(file)
  return str(file)


families = pytest.mark.parametrize('family', MODELS)


def shown(capsys, *argv: str) -> str:
  """Return what a command prints; it ends with 0."""
  capsys.readouterr()
  assert main([*argv]) == 0
  return capsys.readouterr().out


@families
def test_a_checkpoint_is_described_evaluated_and_predicts(family, runs, picture, capsys):
  model, params = mixer_jax.load(runs[family])
  checkpoint = f'--checkpoint={runs[family]}'
  text = shown(capsys, 'inspect', str(runs[family]))
  assert f'variant             {VARIANTS[family]}\n'.split() == text.splitlines()[3].split()
  columns = {line.index(line.split(maxsplit=1)[1], 10) for line in text.splitlines()[:10]}
  assert len(columns) == 1  # of values, whatever the longest name
  result = json.loads(shown(capsys, 'evaluate', checkpoint, '--json=-'))
  assert (result['variant'], result['examples']) == (VARIANTS[family], 360)
  top = json.loads(shown(capsys, 'predict', checkpoint, '--json', '--top=10', picture))['top']
  levels = np.asarray(Image.open(picture))
  logits = np.asarray(mixer_jax.apply(model, params, levels[None])[0], np.float64)
  wanted = np.exp(logits - logits.max())
  found = [row['probability'] for row in sorted(top, key=lambda row: row['class'])]
  np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-5)


@pytest.mark.parametrize('family', ['vit', pytest.param('resnet', marks=pytest.mark.long)])
def test_features_are_learned_from(family, runs, picture, capsys):
  checkpoint = f'--checkpoint={runs[family]}'
  small = ('--config.data.train_split=train[:100]', '--config.data.eval_split=test[:40]')
  few = shown(capsys, 'fewshot', checkpoint, *small, '--shots=1', '--seeds=1', '--json=-')
  assert 0 < json.loads(few)['1-shot'] < 100
  text = shown(capsys, 'probe', checkpoint, *small, '--iterations=5')
  names = ['block_0', 'block_1', 'pre_logits']
  assert [line.split()[0] for line in text.splitlines()[:3]] == names
  embedded = mixer_jax.embed(runs[family], [picture], layer='block_1').features
  features = mixer_jax.features(
    *mixer_jax.load(runs[family]), np.asarray(Image.open(picture))[None]
  )
  block = np.asarray(features['block_1'], np.float64)  # tokens, or rows and columns
  expected = block.mean(axis=tuple(range(1, block.ndim - 1)))
  np.testing.assert_allclose(embedded, expected, rtol=1e-5, atol=1e-5)


def test_layers_of_two_families_are_compared(runs, tmp_path, capsys):
  images = ('--config.data.eval_split=test[:64]', f'--output={tmp_path / "x"}')
  shown(capsys, 'cka', f'--checkpoint={runs["mixer"]}', f'--other={runs["vit"]}', *images)
  with np.load(tmp_path / 'x.npz') as found:
    assert found['names_x'].tolist() == found['names_y'].tolist()
    assert found['names_x'].tolist() == ['stem', 'block_0', 'block_1', 'pre_logits']
    assert np.isfinite(found['cka']).all()
  argv = ['identify', f'--checkpoint={runs["vit"]}', f'--other={runs["resnet"]}', *images]
  assert '(chance 50.0 %)' in shown(capsys, *argv)
  with Image.open(tmp_path / 'x.png') as picture:
    assert min(picture.size) > 400


def test_a_pattern_may_be_of_one_of_the_two_families(runs, tmp_path, capsys):
  argv = ['cka', f'--checkpoint={runs["mixer"]}', f'--other={runs["vit"]}']
  argv += ['--config.data.eval_split=test[:64]', f'--output={tmp_path / "x"}']
  assert main([*argv, '--layers=block_*/token_mixing/hidden,block_*/attention/value']) == 0
  with np.load(tmp_path / 'x.npz') as found:
    assert found['names_x'].tolist() == [f'block_{i}/token_mixing/hidden' for i in (0, 1)]
    assert found['names_y'].tolist() == [f'block_{i}/attention/value' for i in (0, 1)]
  capsys.readouterr()
  assert main([*argv, '--layers=block_*/token_mixing/hidden']) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert "no layer matches 'block_*/token_mixing/hidden': the nearest are block_*/" in line


def test_a_vit_is_written_and_pruned(runs, digits_dir, tmp_path, capsys):
  for suffix in ('npz', 'safetensors'):
    file = tmp_path / f'vit.{suffix}'
    shown(capsys, 'convert', str(runs['vit']), str(file))
    model, _ = mixer_jax.load(file)
    assert models.variant_of(model) == VARIANTS['vit']
  study = ('--config=configs/prune.py:digits', f'--workdir={tmp_path / "study"}')
  settings = ('scores=cosine', 'ways=at_once', 'removed=1', 'latency_rounds=1')
  argv = ['prune', f'--checkpoint={runs["vit"]}', *study]
  argv += [f'--config.pruning.{setting}' for setting in (*settings, 'recovery_seeds=0')]
  text = shown(capsys, *argv, f'--config.recovery.data.data_dir={digits_dir}')
  assert '1 of 2 blocks: the least loss on digits/train is by' in text
  assert json.loads((tmp_path / 'study' / 'prune.json').read_text())['variant'] == VARIANTS['vit']


@families
def test_a_run_is_checked_and_sharded(family, config, digits_dir, tmp_path, capsys):
  argv = train_runs.flags(tmp_path / 'run', digits_dir, config=f'{config}:{family}')
  assert main([*argv, '--check']) == 0
  assert not (tmp_path / 'run').exists()
  mesh = ('--devices=8', '--config.mesh.fsdp=2', '--config.mesh.model=2')
  text = shown(capsys, 'shardings', f'--config={config}:{family}', *mesh)
  assert text.startswith(f'{VARIANTS[family]} on 8 devices: 2 data × 2 fsdp × 2 model')
  rows = [line for line in text.splitlines() if line.endswith(' per device') and line[:2] == '  ']
  ends = {line.index(line.split(maxsplit=1)[1]) for line in rows}
  assert len(rows) > 10
  assert len(ends) == 1


OUT = ('{run}', '{out}.npz')
PRUNE = ('--config=configs/prune.py:digits', '--workdir={out}')
FINETUNE = ('train', '--config=configs/digits_finetune.py', '--config.data.data_dir={data}')
REFUSED = [
  ('mixer', ['convert', *OUT, '--image-size=24'], 'take 16 or 32'),
  ('vit', ['convert', *OUT, '--image-size=30'], 'multiple of model.patch_size'),
  ('resnet', ['convert', *OUT, '--blocks=0'], 'a ResNet does not define keep_blocks'),
  ('vit', ['convert', *OUT, '--blocks=0,2'], 'this ViT has blocks 0 to 1'),
  ('resnet', ['evaluate', '--checkpoint={run}', '--gelu=erf'], 'is a ResNet: it has no GELU'),
  (
    'vit',
    ['cka', '--checkpoint={run}', '--layers=block_*/token_mixing/norm'],
    'the nearest are block_*/attention/norm',
  ),
  (
    'resnet',
    ['cka', '--checkpoint={run}', '--layers=block_*/mlp/hidden'],
    'the nearest are block_*',
  ),
  (
    'resnet',
    ['prune', '--checkpoint={run}', *PRUNE, '--config.recovery.data.data_dir={data}'],
    'cannot be pruned, as none of its blocks can be left out: take a Mixer or a ViT',
  ),
  (
    'resnet',
    [*FINETUNE, '--workdir={out}', '--config.init_from={run}', '--config.model.dropout=0.1'],
    'config.model.dropout=0.1: the checkpoint {run} is ResNet-8x0.125',
  ),
  ('vit', ['bench', '--model=ViT-B17'], "no model 'ViT-B17', did you mean ViT-B/16"),
  ('resnet', ['bench', '--model=R50x1'], "no model 'R50x1', did you mean BiT-R50x1"),
]


@pytest.mark.parametrize(('family', 'argv', 'message'), REFUSED)
def test_what_does_not_apply_is_one_line(family, argv, message, runs, digits_dir, tmp_path, capsys):
  names = {'run': runs[family], 'out': tmp_path / 'out', 'data': digits_dir}
  argv = [word.format(**names) for word in argv]
  argv += [f'--output={tmp_path / "out"}'] if argv[0] == 'cka' else []
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message.format(**names) in error
  assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@families
def test_a_run_trains_resumes_and_is_fine_tuned(family, config, digits_dir, tmp_path, capsys):
  """Fine-tuning is at twice the resolution."""
  argv = train_runs.flags(tmp_path / 'run', digits_dir, config=f'{config}:{family}')
  assert main(argv) == 0
  shutil.rmtree(tmp_path / 'run' / 'checkpoints' / '6')
  assert main(argv) == 0
  tuned = train_runs.flags(tmp_path / 'tuned', digits_dir, config='configs/digits_finetune.py')
  assert main([*tuned, f'--config.init_from={tmp_path / "run"}']) == 0
  model, _ = mixer_jax.load(tmp_path / 'tuned')
  assert (model.family, model.image_size) == (family, 32)
  text = shown(capsys, 'report', str(tmp_path / 'run'), str(tmp_path / 'tuned'), '--output=-')
  assert VARIANTS[family].split("'")[0] in text
  more = ('--what=forward,train,cka', '--batch=8', '--rounds=1', '--steps=1')
  assert 'images/s' in shown(capsys, 'bench', f'--config={config}:{family}', *more)


@pytest.mark.long
@pytest.mark.parametrize('study', ['permute', 'cka-study'])
def test_a_study_compares_the_three(study, config, digits_dir, tmp_path):
  changes = {
    f'models.{family}.{field}': value
    for family in MODELS
    for field, value in {
      **{k: v for k, v in train_runs.SMALL_FIELDS.items() if not k.startswith('model.')},
      'data.data_dir': str(digits_dir),
    }.items()
  }
  spec = f'{config}:{"cka" if study == "cka-study" else "permute"}'
  report = mixer_jax.run_study(study, spec, str(tmp_path), overrides=changes)
  assert report is not None
  named = report.values['runs'] if study == 'cka-study' else report.values
  assert sorted(name.split('/')[0] for name in named) == sorted(MODELS)
  assert all((tmp_path / name).stat().st_size > 1000 for name in report.files)
