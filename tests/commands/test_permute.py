"""`mixer-jax permute`: runs of three families, resumed, summarised and drawn."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.data import permute
from mixer_jax.errors import UserError
from mixer_jax.models import MixerConfig, ResNetConfig
from mixer_jax.models.paper import IMAGES
from mixer_jax.runlog.metrics import MetricsFile, read_metrics
from mixer_jax.runs import config_file, initial_model
from mixer_jax.studies import permutation_report
from mixer_jax.studies.permutation import PermutationConfig
from tests.helpers import train_runs

SIZES = {
  'mixer': ('num_blocks=1', 'hidden_dim=16', 'tokens_mlp_dim=8', 'channels_mlp_dim=16'),
  'resnet': ('stages=1', 'width=0.125'),
  'vit': ('num_blocks=1', 'hidden_dim=16', 'mlp_dim=16'),
}


def flags(workdir, data_dir, *more: str, seeds: int = 1) -> list[str]:
  small = [
    flag.replace('--config.', f'--config.models.{model}.')
    for model, sizes in SIZES.items()
    for flag in (
      *train_runs.SMALL,
      f'--config.data.data_dir={data_dir}',
      *(f'--config.model.{size}' for size in sizes),
    )
  ]
  where = ('--config=configs/permutation.py:digits', f'--workdir={workdir}')
  return ['permute', *where, f'--config.seeds={seeds}', *small, *more]


ONE = """
from configs import permutation

def get_config():
  return permutation.get_config('digits').models.resnet
"""


@pytest.fixture(scope='module')
def trained(tmp_path_factory, digits_dir):
  """A run of the study's ResNet alone, on shuffled pixels."""
  folder = tmp_path_factory.mktemp('one')
  (folder / 'one.py').write_text(ONE)
  sizes = [f'--config.model.{size}' for size in SIZES['resnet']]
  more = (*sizes, '--config.data.permutation=pixels')
  assert train_runs.train(folder / 'run', digits_dir, *more, config=str(folder / 'one.py')) == 0
  return folder / 'run'


def test_a_resnet_is_trained_loaded_and_evaluated_like_a_mixer(trained, capsys):
  config, params = mixer_jax.load(trained)
  assert (type(config), config.stages, config.num_classes) == (ResNetConfig, '1', 10)
  assert params['head']['kernel'].any()
  capsys.readouterr()
  assert main(['evaluate', f'--checkpoint={trained}', '--json=-']) == 0
  result = json.loads(capsys.readouterr().out)
  rows = [row for row in read_metrics(trained) if row.get('event') == 'eval']
  assert result['top1'] == pytest.approx(rows[-1]['top1'])
  assert result['variant'] == "ResNet-5x0.125 with CIFAR's stem"
  assert main(['inspect', str(trained)]) == 0
  assert 'stages            1\n' in capsys.readouterr().out
  with pytest.raises(UserError, match='it has no GELU'):
    mixer_jax.load(trained, gelu='erf')


def test_images_to_predict_are_permuted_as_the_run_was(trained, tmp_path, capsys):
  picture = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
  config, params = mixer_jax.load(trained)
  seen = permute.permuted(picture, permute.order_of('pixels', 16, 4, 0))
  wanted = np.exp(np.asarray(mixer_jax.apply(config, params, seen[None])[0], np.float64))
  Image.fromarray(picture).save(tmp_path / 'picture.png')
  argv = ['predict', f'--checkpoint={trained}', '--json', '--top=10', str(tmp_path / 'picture.png')]
  capsys.readouterr()
  assert main(argv) == 0
  top = json.loads(capsys.readouterr().out)['top']
  found = np.array([row['probability'] for row in sorted(top, key=lambda row: row['class'])])
  np.testing.assert_allclose(found, wanted / wanted.sum(), atol=1e-5)


def test_complete_runs_are_summarised_and_drawn(digits_dir, tmp_path, capsys):
  finals = {
    ('mixer', 'none'): (90, 94), ('mixer', 'patches'): (91, 93), ('mixer', 'pixels'): (80, 81.6),
    ('resnet', 'none'): (96, 96), ('resnet', 'patches'): (72, 72), ('resnet', 'pixels'): (48, 48),
    ('vit', 'none'): (80, 80), ('vit', 'patches'): (80, 80), ('vit', 'pixels'): (60, 60),
  }  # fmt: skip
  for (model, inputs), top1 in finals.items():
    for seed, last in enumerate(top1):
      file = MetricsFile(tmp_path / model / inputs / str(seed))
      (tmp_path / model / inputs / str(seed)).mkdir(parents=True)
      file.write({'step': 2, 'loss': 1.0, 'accuracy': 0.5})
      for step, value in ((3, 10.0), (6, float(last))):
        file.write({'event': 'eval', 'step': step, 'top1': value})
      file.write({'event': 'end', 'step': 6, 'device_hours': 0.5})
  assert main(flags(tmp_path, digits_dir, seeds=2)) == 0
  report = json.loads((tmp_path / 'permute.json').read_text())
  shares = [[kind['relative_loss'] for kind in own['inputs'].values()] for own in report.values()]
  np.testing.assert_allclose(shares, [[0, 0, 11.2 / 92], [0, 0.25, 0.5], [0, 0, 0.25]])
  pixels = report['mixer']['inputs']['pixels']
  assert pixels['top1'] == [{'3': 10, '6': 80}, {'3': 10, '6': 81.6}]
  assert pixels['noise'] == pytest.approx(np.hypot(2, 0.8))
  shown = capsys.readouterr().out
  assert '80.80 ± 1.13 11.20 ± 2.15 12.2 %' in ' '.join(shown.split())
  assert 'mixer: patches and pixels in them shuffled differs within noise' in shown
  assert 'resnet: patches and pixels in them shuffled differs beyond noise' in shown
  assert 'all pixels shuffled: mixer loses the least, 12.2 %, vit 25.0 %, resnet 50.0 %\n' in shown
  with Image.open(tmp_path / 'permute.png') as picture:
    assert picture.size[0] > 2 * picture.size[1]

  # From Python it is the same.
  _, spec, _, *overrides = flags(tmp_path, digits_dir, seeds=2)
  changes = dict(flag.removeprefix('--config.').split('=', 1) for flag in overrides)
  (tmp_path / 'permute.json').unlink()
  spec = spec.removeprefix('--config=')
  again = mixer_jax.run_study('permute', spec, str(tmp_path), overrides=changes)
  assert again is not None
  assert again.values == json.loads((tmp_path / 'permute.json').read_text()) == report
  assert again.files == ('permute.json', 'permute.png')
  assert f'{again}\n' == shown
  assert 'mixer' in permutation_report.table(report)


@pytest.mark.long
def test_a_study_is_trained_and_resumes_where_it_stopped(digits_dir, tmp_path, capsys):
  assert main(flags(tmp_path, digits_dir)) == 0
  report = json.loads((tmp_path / 'permute.json').read_text())
  for model, own in report.items():
    for inputs, outcome in own['inputs'].items():
      rows = read_metrics(tmp_path / model / inputs / '0')
      evaluations = {str(row['step']): row['top1'] for row in rows if row.get('event') == 'eval'}
      assert outcome['top1'] == [evaluations]
      assert list(evaluations) == ['3', '6']
      assert outcome['deviation'] is None  # of one seed
      assert outcome['noise'] == (0 if inputs == 'none' else None)
  shutil.rmtree(tmp_path / 'mixer' / 'patches')
  kept = len(read_metrics(tmp_path / 'resnet' / 'none' / '0'))
  assert main(flags(tmp_path, digits_dir)) == 0
  assert len(read_metrics(tmp_path / 'resnet' / 'none' / '0')) == kept
  assert json.loads((tmp_path / 'permute.json').read_text()) == report
  capsys.readouterr()
  assert main(flags(tmp_path, digits_dir, '--config.models.resnet.batch_size=32')) == 2
  line = capsys.readouterr().err
  assert 'resnet on none, seed 0: ' in line
  assert 'holds another run: its config.batch_size is 16, not 32' in line


BAD = [
  (['--config.seeds=0'], 'config.seeds must be a whole number in 1..1000'),
  (
    ['--config.models.mixer.data.permutation_patch=5'],
    'mixer on patches, seed 0: data.permutation_patch 5',
  ),
  (['--config.models.resnet.model.stages=1,x'], 'resnet on none, seed 0: model.stages are numbers'),
  (['--config=configs/digits.py', '--config.seed=1'], 'begin with configs/permutation.py'),
  (['--config=configs/permutation.py:jft'], 'there are digits and imagenet2012'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[0] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, digits_dir, tmp_path, capsys):
  argv = flags(tmp_path / 'study', digits_dir, *more)
  if more[0].startswith('--config='):
    argv = ['permute', f'--workdir={tmp_path / "study"}', *more]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'study').exists()


def test_the_paper_scale_is_b16_and_resnet50x1():
  fields = config_file.load_config('configs/permutation.py:imagenet2012')
  study = PermutationConfig.from_fields(fields)
  mixer, resnet = (
    initial_model.new_model(study.models[name].model) for name in ('mixer', 'resnet')
  )
  assert mixer_jax.models.variant_of(mixer) == 'B/16'
  assert mixer_jax.models.variant_of(resnet) == 'BiT-R50x1'
  assert mixer_jax.models.num_params(resnet) == 25_549_352
  vit = initial_model.new_model(study.models['vit'].model)
  assert mixer_jax.models.variant_of(vit) == 'ViT-B/16'
  assert (mixer.image_size, resnet.image_size) == (224, 224)
  assert isinstance(mixer, MixerConfig)
  for config in study.models.values():
    assert config.data.permutation_patch == 16
    assert config.total_steps * 4096 == pytest.approx(300 * 0.99 * IMAGES['imagenet2012'], rel=1e-4)
