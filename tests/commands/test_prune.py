"""`mixer-jax prune`: a small study, resumed; its results are ordinary Mixers."""

import dataclasses
import json
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax import checkpoints, models
from mixer_jax.__main__ import main
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import UserError
from mixer_jax.models import ResNetConfig
from mixer_jax.models.depth import with_blocks
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs import initial_model
from mixer_jax.runs.config_file import load_config
from mixer_jax.runs.experiment import build_experiment
from mixer_jax.runs.run_config import RunConfig
from mixer_jax.studies.pruning_plan import PruningConfig
from tests.docs.file_keys import assert_documented
from tests.helpers import train_runs


@pytest.fixture(scope='module')
def trained(tmp_path_factory, digits_dir):
  """The state of a run of two blocks, whose weights are drawn: training would only take time."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  flags = train_runs.flags(workdir, digits_dir, '--config.model.num_blocks=2')
  config = RunConfig.from_fields(load_config('configs/digits.py', flags[3:]))
  metadata = build_experiment(config).metadata()
  rng = np.random.default_rng(0)
  draw = lambda leaf: rng.normal(0, 0.3, leaf.shape).astype(np.float32)
  store = Store(workdir, keep=1)
  store.save(
    6, {'params': jax.tree.map(draw, models.shapes(initial_model.model_of(config)))}, metadata
  )
  store.wait()
  return workdir


def flags(checkpoint, workdir, data_dir, *more: str) -> list[str]:
  small = [flag.replace('--config.', '--config.recovery.') for flag in train_runs.SMALL]
  settings = ('scores=cosine,random', 'removed=0,1', 'random_seeds=1', 'latency_rounds=2')
  return [
    *('prune', '--config=configs/prune.py:digits', f'--checkpoint={checkpoint}'),
    *(f'--workdir={workdir}', f'--config.recovery.data.data_dir={data_dir}', *small),
    *(f'--config.pruning.{setting}' for setting in settings),
    *more,
  ]


def start(checkpoint, digits_dir, *more: str):
  """The config of a run that starts from some blocks of a checkpoint."""
  config = load_config(
    'configs/prune.py:digits',
    [
      f'--config.recovery.init_from={checkpoint}',
      f'--config.recovery.data.data_dir={digits_dir}',
      '--config.recovery.eval_batch_size=64',
      *(f'--config.recovery.{flag}' for flag in more),
    ],
  )
  return RunConfig.from_fields(config['recovery'])


def figures(checkpoint, digits_dir, capsys) -> float:
  """Top-1 by `mixer-jax evaluate`, of a checkpoint that may not name its data."""
  capsys.readouterr()
  argv = ['evaluate', '--config=configs/digits.py', f'--checkpoint={checkpoint}', '--json=-']
  assert main([*argv, f'--config.data.data_dir={digits_dir}']) == 0
  return json.loads(capsys.readouterr().out)['top1']


def test_a_study_without_recovery_ends_in_a_table_and_a_picture(
  trained, digits_dir, tmp_path, capsys
):
  study = tmp_path / 'study'
  assert main(flags(trained, study, digits_dir, '--config.pruning.recovery_seeds=0')) == 0
  shown = capsys.readouterr().out
  assert '1 of 2 blocks: the least loss on digits/train is by cosine' in shown
  report = json.loads((study / 'prune.json').read_text())
  assert [row['score'] for row in report['rows']] == ['cosine', 'cosine', 'random']
  row = report['rows'][0]
  kept, gone = row['blocks_kept'], row['blocks_removed']
  assert sorted(kept + gone) == [0, 1]
  assert np.argmin(report['scores']['cosine']) == gone[0]
  small = models.config_from({**report['model'], 'num_blocks': 1})
  assert row['parameters'] == models.num_params(small)
  assert row['gflop'] == models.forward_flops(small) / 1e9
  assert row['latency']['ratio'] > 0
  assert report['whole']['latency']['ratio'] == 1
  with Image.open(study / 'prune.png') as image:
    assert min(image.size) > 400

  # Written down, read again and evaluated, the pruned Mixer is as good as the table says.
  file = tmp_path / 'pruned.npz'
  assert main(['convert', str(trained), str(file), f'--blocks={kept[0]}']) == 0
  assert row['after_removal'] == pytest.approx(figures(file, digits_dir, capsys))


@pytest.mark.long
def test_a_recovered_mixer_is_an_ordinary_one_and_a_study_resumes(
  trained, digits_dir, tmp_path, capsys
):
  study = tmp_path / 'study'
  argv = flags(trained, study, digits_dir)
  assert main(argv) == 0
  report = json.loads((study / 'prune.json').read_text())
  assert len(report['whole']['after_recovery']) == 1
  row = report['rows'][0]
  kept = row['blocks_kept']
  folder = study / 'recovery' / str(kept[0]) / '0'
  config, params = mixer_jax.load(folder)
  assert (config.num_blocks, set(params) >= {'MixerBlock_0'}) == (1, True)
  assert 'MixerBlock_1' not in params
  assert row['after_recovery'] == [pytest.approx(figures(folder, digits_dir, capsys))]
  origin = checkpoints.read(folder).metadata['origin']
  assert origin == {'checkpoint': str(trained / 'checkpoints' / '6'), 'blocks': kept}
  assert main(['inspect', str(folder)]) == 0
  assert f'blocks {kept[0]} of {trained}' in capsys.readouterr().out

  # It is fine-tuned and converted like any other.
  more = (f'--config.init_from={folder}', '--config.model.image_size=32')
  tuned = tmp_path / 'tuned'
  assert train_runs.train(tuned, digits_dir, *more, config='configs/digits_finetune.py') == 0
  assert mixer_jax.load(tuned)[0].num_blocks == 1
  assert main(['convert', str(folder), str(tmp_path / 'recovered.safetensors')]) == 0
  jax.tree.map(
    np.testing.assert_array_equal, mixer_jax.load(tmp_path / 'recovered.safetensors')[1], params
  )

  # The same command again measures and trains nothing.
  measured, rows = (study / 'measured.json').read_bytes(), len(read_metrics(folder))
  assert main(argv) == 0
  assert (study / 'measured.json').read_bytes() == measured
  assert_documented('measured.json', json.loads(measured))
  assert len(read_metrics(folder)) == rows
  assert json.loads((study / 'prune.json').read_text()) == report
  capsys.readouterr()
  assert main([*argv, '--config.recovery.optimizer.learning_rate=1e-3']) == 2
  assert ', seed 0: ' in (line := capsys.readouterr().err)
  assert 'holds another run: its config.optimizer.learning_rate' in line


def test_recovery_begins_with_the_blocks_and_the_head_that_were_trained(trained, digits_dir):
  _, params = mixer_jax.load(trained)
  for blocks in ((1,), (0, 1)):
    text = ','.join(map(str, blocks))
    config = start(trained, digits_dir, f'init_blocks={text}', 'init_head=keep')
    begun = build_experiment(config)
    assert begun.initial_params is not None
    model: Any = begun.model
    assert model.num_blocks == len(blocks)
    _, wanted = with_blocks(mixer_jax.load(trained)[0], params, blocks)
    jax.tree.map(np.testing.assert_array_equal, begun.initial_params(), wanted)
    assert begun.initial_params()['head']['kernel'].any()
  begun = build_experiment(start(trained, digits_dir, 'init_blocks=1'))
  assert begun.initial_params is not None
  assert not begun.initial_params()['head']['kernel'].any()
  assert begun.metadata()['origin'] == {'checkpoint': str(trained), 'blocks': [1]}


def test_a_grown_mixer_recovers_at_its_size(trained, digits_dir, tmp_path):
  config, params = mixer_jax.load(trained, image_size=32)
  mixer_jax.save(tmp_path / 'grown.npz', config, params)
  begun = build_experiment(
    start(tmp_path / 'grown.npz', digits_dir, 'init_blocks=0', 'init_head=keep')
  )
  assert begun.model == dataclasses.replace(config, num_blocks=1)


@pytest.mark.parametrize(
  ('more', 'message'),
  [
    (['init_blocks=2', 'init_head=keep'], 'this Mixer has blocks 0 to 1'),
    (['init_blocks=a'], 'config.init_blocks=a: whole numbers'),
    (['init_head=new'], "config.init_head must be 'zero' or 'keep'"),
    (['init_head=keep', 'init_from='], 'need a checkpoint: set init_from'),
  ],
)
def test_other_beginnings_are_refused(more, message, trained, digits_dir):
  with pytest.raises(UserError, match=message):
    build_experiment(start(trained, digits_dir, *more))


def test_a_head_is_kept_for_its_own_classes_only(trained, digits_dir, tmp_path, monkeypatch):
  config = start(trained, digits_dir, 'init_head=keep')
  config = config.with_fields({'model.num_classes': 7})
  with pytest.raises(UserError, match=r"init_head='keep': the head .* has other classes"):
    build_experiment(config)
  read = checkpoints.read(trained)
  read.metadata['classes'] = read.metadata['classes'][::-1]
  monkeypatch.setattr(checkpoints, 'read', lambda path: read)
  with pytest.raises(UserError, match=r"init_head='keep': the head .* has other classes"):
    build_experiment(start(trained, digits_dir, 'init_head=keep'))


BAD = [
  (['--config.pruning.removed=2'], 'the model has 2 block(s), and one must stay: take 0 to 1'),
  (['--config.pruning.removed=-1'], 'pruning.removed are numbers of blocks'),
  (['--config.pruning.scores=cosin'], "pruning.scores has no 'cosin': the nearest are cosine"),
  (['--config.pruning.score_split=trian'], "no split 'trian'"),
  (['--config.pruning.score_split=train[:65]'], 'leave 1 for the last one'),
  (['--config.recovery.init_from=x'], 'config.recovery.init_from is set'),
  (['--config.recovery.optimizer.warmup_steps=-1'], 'warmup_steps'),
  (['--config=configs/digits.py'], 'begin with configs/prune.py'),
  (['--config=configs/prune.py:jft'], 'there are digits and imagenet2012'),
  (['--checkpoint=nosuch'], 'no checkpoint nosuch'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[0] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(
  more, message, trained, digits_dir, tmp_path, capsys
):
  argv = flags(trained, tmp_path / 'study', digits_dir, *more)
  if more[0] == '--config=configs/digits.py':
    argv = [*argv[:1], *more, *argv[2:4]]
  assert main(argv) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert message in error
  assert not (tmp_path / 'study').exists()


def test_a_resnet_is_refused(trained, digits_dir, tmp_path, capsys, monkeypatch):
  read = checkpoints.read(trained)
  resnet = ResNetConfig(
    stages='1', width=0.125, groups=4, stem='cifar', image_size=16, num_classes=10
  )
  monkeypatch.setattr(
    checkpoints,
    'read',
    lambda path: checkpoints.Checkpoint(resnet, {}, 'x', 'x', metadata=read.metadata),
  )
  assert main(flags(trained, tmp_path / 'study', digits_dir)) == 2
  assert (
    'cannot be pruned, as none of its blocks can be left out: take a Mixer or a ViT'
    in capsys.readouterr().err
  )


def test_the_other_scale_is_the_papers_fine_tuning():
  study = load_config('configs/prune.py:imagenet2012')
  settings = PruningConfig.from_fields(study['pruning'])
  assert settings.checked(mixer_jax.VARIANTS['B/16']).num_blocks == 12
  recovery = RunConfig.from_fields(study['recovery'])
  optimizer = recovery.optimizer
  assert (optimizer.name, optimizer.weight_decay, optimizer.learning_rate) == ('sgd', 0, 0.003)
  data = recovery.data
  assert (data.name, data.eval_split, settings.score_split) == (
    *('imagenet2012', 'validation', 'train[:1%]'),
  )


@pytest.mark.long
def test_two_of_eight_blocks_go_and_at_most_a_point_with_them(digits_dir, tmp_path):
  """The figure that was asked for, on the digits Mixer of eight blocks at half its training."""
  data = f'--config.data.data_dir={digits_dir}'
  sizes = ('--config.model.num_blocks=8', '--config.total_steps=600')
  argv = ['train', '--config=configs/digits.py', f'--workdir={tmp_path / "whole"}', data, *sizes]
  assert main(argv) == 0
  argv = [
    *('prune', '--config=configs/prune.py:digits', f'--checkpoint={tmp_path / "whole"}'),
    *(f'--workdir={tmp_path / "study"}', f'--config.recovery.data.data_dir={digits_dir}'),
    *('--config.pruning.removed=2', '--config.pruning.recovery_seeds=0'),
  ]
  assert main(argv) == 0
  report = json.loads((tmp_path / 'study' / 'prune.json').read_text())
  random = [row['after_removal'] for row in report['rows'] if row['score'] == 'random']
  assert len(random) == 5
  # The best by the images that blocks were scored on; the tested ones have no say.
  measured = [row for row in report['rows'] if row['score'] in report['scores']]
  best = min(measured, key=lambda row: row['scored_loss'])
  assert best['after_removal'] > np.mean(random)
  # That one recovers; the others would only take time.
  argv[-1] = '--config.pruning.recovery_seeds=1'
  chosen = f'--config.pruning.scores={best["score"]}'
  assert main([*argv, chosen, f'--config.pruning.ways={best["way"]}']) == 0
  (row,) = json.loads((tmp_path / 'study' / 'prune.json').read_text())['rows']
  assert row['blocks_kept'] == best['blocks_kept']
  assert np.mean(row['after_recovery']) >= report['whole']['top1'] - 1
