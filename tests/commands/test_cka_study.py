"""`mixer-jax cka-study`: runs of several models, and comparisons of all of their layers."""

import dataclasses
import json
import shutil
from typing import Any

import numpy as np
import pytest
from etils import epath
from PIL import Image

from mixer_jax.__main__ import main
from mixer_jax.analysis.cka import MinibatchCKA
from mixer_jax.analysis.hsic import Method, check_images
from mixer_jax.analysis.identification import identify
from mixer_jax.errors import UserError
from mixer_jax.evaluation.probe import LayerProbe, ProbeConfig
from mixer_jax.models import MixerConfig
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import initial_model
from mixer_jax.runs.config_file import load_config
from mixer_jax.studies import cka, cka_report
from mixer_jax.studies.cka_comparisons import Member
from mixer_jax.studies.result_cache import CachedRows
from tests.docs.file_keys import assert_documented
from tests.helpers import train_runs

STUDY = """
from configs import cka_study

def get_config():
  study = cka_study.get_config('digits')
  for name in list(study.models):
    if name not in ('blocks_8', 'half_b'):
      del study.models[name]
  return study
"""


@pytest.fixture(scope='module')
def flags(tmp_path_factory, digits_dir):
  """(workdir, more flags) -> arguments of a study of two tiny models, of two blocks and of one."""
  folder = tmp_path_factory.mktemp('study')
  (folder / 'study.py').write_text(STUDY)

  def make(workdir, *more: str) -> list[str]:
    sizes = ('hidden_dim=16', 'tokens_mlp_dim=8', 'channels_mlp_dim=16')
    small = [
      flag.replace('--config.', f'--config.models.{model}.')
      for model, blocks in (('blocks_8', 2), ('half_b', 1))
      for flag in (
        *train_runs.SMALL,
        f'--config.data.data_dir={digits_dir}',
        f'--config.model.num_blocks={blocks}',
        *(f'--config.model.{size}' for size in sizes),
      )
    ]
    where = (f'--config={folder / "study.py"}', f'--workdir={workdir}')
    return ['cka-study', *where, '--config.kernels=linear', *small, *more]

  return make


@pytest.mark.long
def test_a_study_trains_compares_and_resumes(flags, digits_dir, tmp_path, capsys):
  still = '--config.models.half_b.optimizer.learning_rate=1e-12'
  argv = flags(tmp_path, '--config.seeds=2', '--config.probe.iterations=20', still)
  assert main(argv) == 0
  shown = capsys.readouterr().out
  report = json.loads((tmp_path / 'cka_study.json').read_text())
  assert_documented('cka_study.json', report)
  assert_documented('cka_study.npz', tmp_path / 'cka_study.npz')
  probe = tmp_path / 'blocks_8' / '0' / 'probe_trained.json'
  assert_documented('probe_trained.json', json.loads(probe.read_text()))
  assert list(report['runs']) == ['blocks_8/0', 'half_b/0', 'blocks_8/1', 'half_b/1']
  assert (report['images'], report['runs']['half_b/1']['trained_on']) == (360, 'digits/train[50%:]')
  found = report['kernels']['linear']['comparisons']
  kinds = [one['kind'] for one in found]
  assert {kind: kinds.count(kind) for kind in kinds} == {
    'itself': 2, 'untrained': 4, 'models': 1, 'seeds': 2, 'untrained_seeds': 2,
  }  # fmt: skip

  # The pass over all models agrees with the command that compares two.
  (seeds,) = [one for one in found if (one['x'], one['y']) == ('blocks_8/0', 'blocks_8/1')]
  one, other = (tmp_path / 'blocks_8' / seed for seed in '01')
  out = tmp_path / 'two'
  assert main(['identify', f'--checkpoint={one}', f'--other={other}', f'--output={out}']) == 0
  with np.load(f'{out}.npz') as two, np.load(tmp_path / 'cka_study.npz') as whole:
    np.testing.assert_allclose(seeds['cka'], two['cka'], atol=1e-5)
    assert seeds['there']['nearest'] == two['nearest'].tolist()
    names = whole['names'].tolist()
    rows = [names.index(f'blocks_8/0: block_{i}') for i in range(2)]
    starts = [names.index(f'blocks_8/0 untrained: block_{i}') for i in range(2)]
    block = whole['linear'][np.ix_(rows, starts)]
  (start,) = [c for c in found if (c['kind'], c['x']) == ('untrained', 'blocks_8/0')]
  np.testing.assert_allclose(start['cka'], block, atol=1e-5)
  assert identify(block).nearest == tuple(start['there']['nearest'])
  assert block.max() < 1 - 1e-4
  # A model that did not learn is still what it started as.
  unmoved = [c['cka'] for c in found if (c['kind'], c['x'][:6]) == ('untrained', 'half_b')]
  np.testing.assert_allclose(unmoved, np.ones((2, 1, 1)), atol=1e-5)

  run = report['runs']['blocks_8/0']
  probes = report['probes']['trained']['blocks_8/0']
  assert list(probes) == ['block_0', 'block_1', 'pre_logits']
  (row,) = [row for row in report['identified'] if row['model'] == 'blocks_8']
  both = [seeds[way]['accuracy'] for way in ('there', 'back')]
  assert (row['trained'], row['chance']) == (sum(both) / 2, 50)
  rows = [row for row in read_metrics(one) if row.get('event') == 'eval']
  assert run['top1'] == rows[-1]['top1']
  for name in ('seeds_linear', 'itself_linear', 'models_linear', 'untrained_linear', 'probes'):
    with Image.open(tmp_path / f'{name}.png') as picture:
      assert min(picture.size) > 250
  assert 'blocks_8/0' in shown

  # Only what is missing is done again.
  kept = {seed: len(read_metrics(tmp_path / 'blocks_8' / seed)) for seed in '01'}
  shutil.rmtree(tmp_path / 'half_b' / '1')
  probe = tmp_path / 'blocks_8' / '0' / 'probe_trained.json'
  stored = json.loads(probe.read_text())
  stored['layers'][0]['top1'] = -1.0
  probe.write_text(json.dumps(stored))
  assert main(argv) == 0
  again = json.loads((tmp_path / 'cka_study.json').read_text())
  assert kept == {seed: len(read_metrics(tmp_path / 'blocks_8' / seed)) for seed in '01'}
  assert again['kernels'] == report['kernels']
  assert again['probes']['trained']['blocks_8/0']['block_0'] == -1
  (tmp_path / 'itself_rbf.png').write_bytes(b'of another study')
  assert main([*argv, '--config.probe.l2=0.1']) == 0
  assert not (tmp_path / 'itself_rbf.png').exists()
  again = json.loads((tmp_path / 'cka_study.json').read_text())
  assert again['probes']['trained']['blocks_8/0']['block_0'] > 0


SIZES: dict[str, Any] = {
  'patch_size': 4, 'hidden_dim': 8, 'tokens_mlp_dim': 4, 'channels_mlp_dim': 8, 'image_size': 16,
}  # fmt: skip


def members() -> list[Member]:
  """Two models from two seeds, at their ends and at their starts."""
  made = []
  for model, blocks in (('deep', 3), ('flat', 2)):
    for seed in (0, 1):
      for is_trained in (True, False):
        config = MixerConfig(num_blocks=blocks, **SIZES)
        names = [f'block_{i}' for i in range(blocks)]
        made.append(Member(model, seed, is_trained, 'x', 'made/train', config, names, {}))
  return made


def test_figures_are_those_of_the_parts_of_one_matrix():
  made = members()
  rng = np.random.default_rng(0)
  # Each block is a further step of a walk that the seeds of a model share; untrained ones do not.
  ways = {model: rng.normal(size=(3, 16, 5)) for model in ('deep', 'flat')}
  features = [
    np.cumsum(ways[m.model], 0)[i] + 0.1 * rng.normal(size=(16, 5)) if m.is_trained
    else rng.normal(size=(16, 5))
    for m in made for i in range(len(m.layers))
  ]  # fmt: skip
  total = MinibatchCKA(20, 20)
  total.update([x.astype(np.float32) for x in features])
  probes = {
    m.name: [LayerProbe(name, 10.0 * i, 99.0, 0.1, 0.0) for i, name in enumerate(m.layers)]
    for m in made
  }
  curves = {m.run: {1: 10.0, 2: 50.0 + m.seed} for m in made}
  config = cka.CKAStudyConfig(
    seeds=2,
    layers=('block_*',),
    features='flatten',
    methods={'linear': Method()},
    probe=ProbeConfig(1e-3, 20),
    models={},
  )
  report = cka.report(config, made, {'linear': total}, probes, curves, 'made/test')
  found = {
    (one['kind'], one['x'], one['y']): one for one in report['kernels']['linear']['comparisons']
  }
  assert sorted(found) == [
    ('itself', 'deep/0', 'deep/0'),
    ('itself', 'flat/0', 'flat/0'),
    ('models', 'deep/0', 'flat/0'),
    ('seeds', 'deep/0', 'deep/1'),
    ('seeds', 'flat/0', 'flat/1'),
    *(('untrained', f'{m}/{s}', f'{m}/{s} untrained') for m in ('deep', 'flat') for s in (0, 1)),
    *(('untrained_seeds', f'{m}/0 untrained', f'{m}/1 untrained') for m in ('deep', 'flat')),
  ]
  matrix = total.result()  # rows: deep/0, its start, deep/1, its start, flat/0, …
  np.testing.assert_allclose(found['seeds', 'deep/0', 'deep/1']['cka'], matrix[:3, 6:9], atol=1e-5)
  across = found['models', 'deep/0', 'flat/0']
  np.testing.assert_allclose(across['cka'], matrix[:3, 12:14], atol=1e-5)
  assert across['there']['accuracy'] is None
  assert found['seeds', 'deep/0', 'deep/1']['back']['accuracy'] == 100
  assert found['itself', 'flat/0', 'flat/0']['there']['nearest'] == [0, 1]
  assert report['runs']['flat/1']['top1'] == 51
  assert json.loads(json.dumps(report, allow_nan=False)) == report
  lines = cka_report.text(report).splitlines()
  assert lines[2].split()[:3] == ['linear', 'deep', '100.0']
  assert lines[-1].split() == ['flat/1', '51.00', *['0.00', '10.00', '10.00'] * 2]
  drawn = cka_report.files(report)
  kinds = [f'{kind}_linear.png' for kind in cka_report.KINDS]
  assert list(drawn) == [*kinds, 'probes.png']


BAD = [
  (['--config.seeds=0'], 'config.seeds must be a whole number in 1..1000'),
  (['--config.kernels=linear,cubic'], "config.kernels are some of linear,rbf, not 'linear,cubic'"),
  (['--config.layers=blok_*'], "no layer matches 'blok_*': the nearest are block_*"),
  (['--config.features=mean'], "not 'mean'"),
  (['--config.kernels=rbf', '--config.bandwidth=0.0'], 'must be positive, not 0.0'),
  (['--config.probe.l2=0.0'], 'probe l2 must be a number'),
  (
    ['--config.models.half_b.model.image_size=32'],
    'half_b, seed 0: its model.image_size is 32, and 16 in blocks_8, seed 0',
  ),
  (['--config.models.half_b.data.train_split=trian'], 'half_b, seed 0: '),
  (['--config.models.blocks_8.data.eval_split=test[:3]'], 'there are 3 images'),
  (['--config=configs/digits.py', '--config.seed=1'], 'begin with configs/cka_study.py'),
  (['--config=configs/cka_study.py:svhn'], 'there are digits, cifar10 and cifar100'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[0] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, flags, tmp_path, capsys):
  argv = flags(tmp_path / 'study', *more)
  if more[0].startswith('--config='):
    argv = ['cka-study', f'--workdir={tmp_path / "study"}', *more]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'study').exists()


@pytest.mark.parametrize('text', ['x', '[]', 'null', '{"settings": {}, "layers": [{}]}'])
def test_damaged_probes_are_fit_again(text, tmp_path):
  file = epath.Path(tmp_path) / 'probe_trained.json'
  kept = lambda settings: CachedRows(file, settings, LayerProbe).get()
  assert kept({}) is None
  file.write_text(text)
  assert kept({}) is None
  row = LayerProbe('block_0', 90.0, 99.0, 0.1, 0.0)
  assert CachedRows(file, {'l2': 1}, LayerProbe).get_or_measure(lambda: [row]) == [row]
  stored = {'settings': {'l2': 1}, 'layers': [dataclasses.asdict(row)]}
  assert json.loads(file.read_text()) == stored  # which earlier versions have left as well
  assert kept({'l2': 1}) == [row]
  assert kept({'l2': 2}) is None


def test_batches_too_small_for_the_estimator_are_refused_before_training():
  check_images(360, 4)
  with pytest.raises(UserError, match='360 images in batches of 2 leave 2'):
    check_images(360, 2)


@pytest.mark.parametrize('data', ['cifar10', 'cifar100'])
def test_the_full_scale_is_that_of_the_slides(data):
  study = cka.CKAStudyConfig.from_fields(load_config(f'configs/cka_study.py:{data}'))
  sizes: dict[str, Any] = {
    name: initial_model.new_model(config.model) for name, config in study.models.items()
  }
  blocks = {m.num_blocks for name, m in sizes.items() if m.hidden_dim == 384}
  widths = {m.hidden_dim for m in sizes.values() if m.num_blocks == 12}
  assert (blocks, min(widths), max(widths)) == ({8, 12, 24, 32}, 256, 640)
  assert {config.data.name for config in study.models.values()} == {'cifar10', 'cifar100'}
  assert next(iter(study.models.values())).data.name == data
  for name, config in study.models.items():
    assert sizes[name].num_classes == (100 if config.data.name == 'cifar100' else 10)
    assert sizes[name].num_tokens == 64
  assert (*study.methods, *study.layers, study.features) == ('linear', 'rbf', 'block_*', 'flatten')
