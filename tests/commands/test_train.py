"""`mixer-jax train` from end to end, and its refusals."""

import io
import json
import math
import shutil
import subprocess
import sys
import time
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

import mixer_jax
from mixer_jax.__main__ import main
from mixer_jax.checkpoints.run_states import read_params
from mixer_jax.checkpoints.store import Store
from mixer_jax.runlog.metrics import read_metrics
from mixer_jax.runs.base_hooks import BaseHooks
from tests.helpers import factories, golden_models, reference, train_runs


@pytest.fixture(scope='module')
def trained(tmp_path_factory, digits_dir, compilations):
  """Return the workdir of a finished small run."""
  workdir = tmp_path_factory.mktemp('trained') / 'run'
  with pytest.MonkeyPatch.context() as patch:
    step = BaseHooks.step
    patch.setattr(BaseHooks, 'step', lambda *a: (compilations.append(f'step {a[1]}'), step(*a)))
    assert train_runs.train(workdir, digits_dir) == 0
  return workdir


@pytest.fixture(scope='module')
def compilations():
  """Return what the run of `trained` compiled and which steps it logged, in order."""
  events = []

  def listen(event: str, duration_secs: float, **of: Any) -> None:
    if event == '/jax/core/compile/backend_compile_duration':
      events.append(of['fun_name'])

  jax.monitoring.register_event_duration_secs_listener(listen)
  yield events
  jax.monitoring.unregister_event_duration_listener(listen)


def test_each_program_of_a_run_is_compiled_once_and_none_after_the_first_save(
  trained, compilations
):
  names = list(compilations)
  assert names.count('jit(train_step)') == names.count('jit(eval_step)') == 1
  assert names.count('jit(_digest)') <= 1  # it may be known from another run in this process
  assert names.index('jit(train_step)') < names.index('step 1')
  # The first evaluation and the first save come after step 3; nothing of them later.
  between = lambda a, b: names[names.index(a) + 1 : names.index(b)]
  assert between('step 1', 'step 3') == ['step 2']
  assert [name for name in names[names.index('step 4') :] if name.startswith('jit')] == []


def test_a_run_logs_its_startup(trained):
  (row,) = [row for row in read_metrics(trained) if row.get('event') == 'startup']
  parts = ('imports', 'devices', 'data', 'init', 'input', 'compile', 'first_step')
  assert row['step'] == 1
  assert all(row[part] >= 0 for part in parts)
  assert row['total'] == pytest.approx(sum(row[part] for part in parts), abs=0.01)
  assert row['total'] <= row['seconds']


def test_a_run_leaves_states_metrics_and_pictures(trained):
  rows = read_metrics(trained)
  (start,) = [row for row in rows if row.get('event') == 'start']
  assert (start['step'], start['restored'], start['process']) == (0, None, 0)
  assert start['pid'] > 0
  steps = [row for row in rows if 'event' not in row]
  assert [row['step'] for row in steps] == [2, 4, 6]
  for row in steps:
    numbers = ('loss', 'accuracy', 'grad_norm', 'learning_rate', 'images_per_second', 'seconds')
    assert all(math.isfinite(row[name]) for name in numbers)
    # The devices may not have ended a step that counts: one is evaluated and saved in three.
    assert row['input_wait'] is None or 0 <= row['input_wait'] <= 1
  evals = [row for row in rows if row.get('event') == 'eval']
  assert [row['step'] for row in evals] == [3, 6]
  assert all(row['examples'] == 360 and row['undecodable'] == 0 for row in evals)
  end = rows[-1]
  assert (end['event'], end['step']) == ('end', 6)
  assert end['device_hours'] == pytest.approx(8 * end['seconds'] / 3600, rel=1e-3)
  assert end['core_days'] == pytest.approx(end['device_hours'] / 24)
  assert Store(trained, keep=3).steps() == [3, 6]
  for name in ('curves.png', 'predictions.png'):
    assert Image.open(io.BytesIO((trained / name).read_bytes())).size[0] > 500
  stored = json.loads((trained / 'config.json').read_text())
  assert stored['config']['batch_size'] == 16
  assert stored['model']['hidden_dim'] == 16


@pytest.mark.long
def test_a_run_that_is_all_warm_up_logs_a_warning(digits_dir, tmp_path, capsys):
  short = ('--config.total_steps=2', '--config.optimizer.warmup_steps=100')
  assert train_runs.train(tmp_path, digits_dir, *short) == 0
  assert 'all of total_steps 2 is warm-up' in capsys.readouterr().err


def test_the_same_command_again_has_nothing_to_do(trained, digits_dir):
  before = mixer_jax.load(trained)
  assert train_runs.train(trained, digits_dir) == 0
  last = [row for row in read_metrics(trained) if row.get('event') == 'start'][-1]
  assert last['step'] == 6
  assert last['restored'].endswith('checkpoints/6')
  jax.tree.map(np.testing.assert_array_equal, before[1], mixer_jax.load(trained)[1])


def test_fields_that_affect_the_result_may_not_change_others_may(trained, digits_dir, capsys):
  assert train_runs.train(trained, digits_dir, '--config.log_every=1', '--config.mesh.fsdp=2') == 0
  capsys.readouterr()
  assert train_runs.train(trained, digits_dir, '--config.seed=1', '--config.batch_size=32') == 2
  line = capsys.readouterr().err
  assert 'holds another run: its config.batch_size is 16, not 32, and 1 more differ' in line
  assert train_runs.train(trained, digits_dir, '--config.model.num_blocks=2') == 2
  assert 'config.model.num_blocks is 1, not 2' in capsys.readouterr().err


def test_a_refused_change_of_the_schedule_names_a_way_that_works(
  trained, digits_dir, tmp_path, capsys
):
  changes = ('--config.total_steps=2', '--config.optimizer.learning_rate=0')
  assert train_runs.train(trained, digits_dir, *changes) == 2
  line = capsys.readouterr().err
  assert 'config.optimizer.learning_rate is 0.003, not 0.0, and 1 more differ' in line
  way = [word.rstrip(',') for word in line.split() if word.startswith('--config.init_')]
  assert len(way) == 2
  assert train_runs.train(tmp_path / 'further', digits_dir, *changes, *way) == 0
  before, after = mixer_jax.load(trained)[1], mixer_jax.load(tmp_path / 'further')[1]
  jax.tree.map(np.testing.assert_array_equal, before, after)
  # Weights do not fit every change: one of the architecture, or of the data.
  for change in ('--config.model.hidden_dim=32', '--config.data.train_split=train[:50%]'):
    assert train_runs.train(trained, digits_dir, *changes, change) == 2
    assert 'take another --workdir, or its settings' in capsys.readouterr().err


def test_a_check_rejects_what_a_run_would_and_writes_nothing(trained, tmp_path, capsys):
  missing = tmp_path / 'no-data-here'
  assert train_runs.train(tmp_path / 'new', missing, '--check') == 0
  assert not (tmp_path / 'new').exists()
  assert train_runs.train(tmp_path / 'new', missing, '--check', '--config.batch_size=x') == 2
  assert train_runs.train(trained, missing, '--check', '--config.seed=1') == 2
  assert 'holds another run: its config.seed is 0, not 1' in capsys.readouterr().err


CHECKS = [
  ('digitz', 2, "no TFDS data set 'digitz': did you mean"),
  ('vtab/clevr_cuont', 2, "no task 'vtab/clevr_cuont'"),
  ('', 2, 'no data set: set --config.data.name'),
  ('cifar100', 2, 'the model has 10 classes and cifar100 100: train with --config.model.num_'),
  ('cifar10', 0, 'cifar10 is not prepared on this machine: its splits are not checked'),
  ('folder:/not/here', 0, '/not/here is not on this machine: the data are not checked'),
  ('folder:{}/seven', 2, 'the model has 10 classes and folder:'),
  ('folder:{}/seven/class 1', 2, 'it needs one folder per class'),
]


@pytest.mark.parametrize(('name', 'code', 'text'), CHECKS, ids=[name for name, *_ in CHECKS])
def test_a_check_finds_what_is_wrong_with_the_data_where_it_can(name, code, text, tmp_path, capsys):
  for label in range(7):
    for image in range(20):
      path = tmp_path / 'images' / 'seven' / f'class {label}' / f'{image}.png'
      path.parent.mkdir(parents=True, exist_ok=True)
      path.write_bytes(b'')
  more = f'--config.data.name={name.format(tmp_path / "images")}'
  assert train_runs.train(tmp_path / 'new', tmp_path / 'none', '--check', more) == code
  assert text in capsys.readouterr().err
  assert not (tmp_path / 'new').exists()


def finetune(workdir, data_dir, source, *more):
  return train_runs.train(
    workdir, data_dir, f'--config.init_from={source}', *more, config='configs/digits_finetune.py'
  )


@pytest.mark.long
def test_a_vit_is_fine_tuned_at_a_larger_size_without_its_representation(digits_dir, tmp_path):
  small = factories.tiny_vit(representation_size=12)
  params = factories.random_params(small)
  mixer_jax.save(tmp_path / 'vit.npz', small, params)
  frozen = ('--config.optimizer.learning_rate=0', '--config.total_steps=2')
  assert finetune(tmp_path / 'run', digits_dir, tmp_path / 'vit.npz', *frozen) == 0
  config, found = mixer_jax.load(tmp_path / 'run')
  assert (config.image_size, config.representation_size, config.family) == (32, 0, 'vit')
  assert 'pre_logits' not in found
  assert not found['head']['kernel'].any()
  wanted = mixer_jax.load(tmp_path / 'vit.npz', image_size=32)[1]
  positions = found['Transformer']['posembed_input']['pos_embedding']
  np.testing.assert_array_equal(positions, wanted['Transformer']['posembed_input']['pos_embedding'])
  np.testing.assert_array_equal(found['cls'], params['cls'])


def test_a_file_of_another_family_than_the_config_names_is_refused(digits_dir, tmp_path, capsys):
  source = golden_models.DATA / 'mixer_tiny.npz'
  vit = tmp_path / 'vit.py'
  vit.write_text(
    'from configs import common, digits_finetune\n'
    'def get_config():\n'
    '  config = digits_finetune.get_config()\n'
    "  config.model.family = 'vit'\n"
    '  config.model.image_size = 24\n'
    '  return config\n'
  )
  argv = train_runs.flags(
    tmp_path / 'run', digits_dir, f'--config.init_from={source}', config=str(vit)
  )
  assert main(argv) == 2
  line = capsys.readouterr().err.splitlines()[-1]
  assert f'config.model.family cannot differ from the checkpoint {source}' in line
  assert 'where it is mixer: leave it out' in line
  assert not (tmp_path / 'run').exists()


def test_states_without_a_config_are_left_alone(trained, digits_dir, tmp_path, capsys):
  shutil.copytree(trained / 'checkpoints', tmp_path / 'run' / 'checkpoints')
  assert train_runs.train(tmp_path / 'run', digits_dir) == 2
  assert 'holds states but no config.json' in capsys.readouterr().err
  assert [path.name for path in (tmp_path / 'run').iterdir()] == ['checkpoints']


@pytest.mark.long
def test_a_second_start_leaves_the_first_alone(digits_dir, tmp_path):
  first = train_runs.start(tmp_path, digits_dir, '--config.total_steps=3000')
  try:
    while not (tmp_path / 'metrics.jsonl').exists():
      assert first.poll() is None
      time.sleep(0.01)
    second = train_runs.start(tmp_path, digits_dir, '--config.total_steps=3000')
    output, _ = second.communicate(timeout=100)
    assert second.returncode == 2
    assert output.splitlines()[-1] == (
      f'mixer-jax: another process is training in {tmp_path}: wait for its end'
    )
    assert first.poll() is None
  finally:
    first.kill()
    first.communicate()


def test_fine_tuning_grows_the_model_and_begins_with_a_zero_head(trained, digits_dir, tmp_path):
  frozen = ('--config.optimizer.learning_rate=0', '--config.total_steps=3')
  assert finetune(tmp_path / 'run', digits_dir, trained, *frozen) == 0
  config, params = mixer_jax.load(tmp_path / 'run')
  small_config, small = mixer_jax.load(trained)
  assert (config.image_size, config.tokens_mlp_dim) == (32, 4 * small_config.tokens_mlp_dim)
  assert not params['head']['kernel'].any()
  # At learning rate 0 the features are the mean of the small model's over the parts.
  image = np.random.default_rng(0).uniform(-1, 1, (1, 32, 32, 3)).astype(np.float32)
  whole = mixer_jax.features(config, params, image)['pre_logits']
  parts = np.stack([image[0, i : i + 16, j : j + 16] for i in (0, 16) for j in (0, 16)])
  wanted = mixer_jax.features(small_config, small, parts)['pre_logits'].mean(0)
  np.testing.assert_allclose(whole[0], wanted, atol=1e-5)


@pytest.mark.long
def test_fine_tuning_from_one_step_and_from_a_published_file(trained, digits_dir, tmp_path):
  step = trained / 'checkpoints' / '3'
  assert finetune(tmp_path / 'a', digits_dir, step, '--config.model.image_size=16') == 0
  published = reference.DATA / 'mixer_tiny.npz'
  assert finetune(tmp_path / 'b', digits_dir, published, '--config.model.image_size=64') == 0
  config, params = mixer_jax.load(tmp_path / 'b')
  assert (config.num_classes, config.image_size, config.patch_size) == (10, 64, 8)
  assert params['head']['kernel'].any()


def test_a_fine_tuned_run_resumes_without_the_weights_it_started_from(
  trained, digits_dir, tmp_path
):
  source = tmp_path / 'source'
  trained.rename(source)
  try:
    assert finetune(tmp_path / 'run', digits_dir, source, '--config.total_steps=3') == 0
  finally:
    source.rename(trained)
  assert finetune(tmp_path / 'run', digits_dir, source, '--config.total_steps=3') == 0


BAD = [
  (['--config.total_step=3'], "no field 'total_step': did you mean config.total_steps?"),
  (['--config.total_steps=many'], "config.total_steps is a whole number (now 6), not 'many'"),
  (['--config.total_steps=0'], 'config.total_steps must be a whole number, at least 1'),
  (['--config.model.image_size=18'], 'model.image_size 18 is not a multiple of model.patch_size 4'),
  (['--config.batch_size=12'], 'batch_size 12 cannot be shared evenly by 8 devices: take 16'),
  (['--config.eval_batch_size=9'], 'batch_size 9 cannot be shared evenly'),
  (['--config.accumulate=3'], '8 devices × 3 micro-batches: take 24'),
  (['--config.mesh.fsdp=3'], 'does not make a mesh of 8 devices'),
  (['--config.data.name=digit'], "no TFDS data set 'digit'"),
  (['--config.data.eval_split=validation'], "no split 'validation': it has train, test"),
  (['--config.data.name='], 'no data set: set --config.data.name'),
  (['--config.model.num_classes=7'], 'the model has 7 classes and digits/train 10'),
  (['--config.loss=hinge'], 'loss must be one of softmax, sigmoid'),
  (['--config.optimizer.name=lion'], "optimizer.name must be 'adam' or 'sgd'"),
  (['--config.init_from=nowhere'], 'no checkpoint nowhere'),
  (['--config=configs/none.py'], 'no config file configs/none.py'),
  (['--stps=3'], 'unknown argument --stps=3'),
  (['--workdir='], '--workdir is empty'),
  (['--config.seed=99999999999'], 'config.seed must be a whole number, at least 0 and below 2^31'),
  (['--config.data.train_split=train[50%:10%]'], 'is empty'),
  (['--config.data.eval_crop_fraction=1e-9'], 'data.eval_crop_fraction must be in'),
  (['--config.optimizer.learning_rate=inf'], 'optimizer.learning_rate must be 0 or more, is inf'),
]


@pytest.mark.parametrize(('more', 'message'), BAD, ids=[more[0] for more, _ in BAD])
def test_bad_input_is_one_line_and_writes_nothing(more, message, digits_dir, tmp_path, capsys):
  workdir = tmp_path / 'run'
  assert train_runs.train(workdir, digits_dir, *more) == 2
  error = capsys.readouterr().err
  assert error.count('\n') == 1
  assert error.startswith('mixer-jax: ')
  assert message in error
  assert not workdir.exists()


def test_fine_tuning_without_a_checkpoint_says_what_is_missing(digits_dir, tmp_path, capsys):
  assert finetune(tmp_path / 'run', digits_dir, '') == 2
  line = capsys.readouterr().err
  assert 'config.model lacks channels_mlp_dim, hidden_dim, num_blocks, patch_size' in line
  assert 'with --config.init_from' in line


def test_growth_that_is_no_integer_and_classes_that_differ(trained, digits_dir, tmp_path, capsys):
  for more, message in (
    ('--config.model.image_size=24', 'image size 24 is not an integer multiple of the 16 px'),
    ('--config.model.num_classes=7', 'the model has 7 classes and digits/train 10'),
  ):
    assert finetune(tmp_path / 'run', digits_dir, trained, more) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_folder_that_cannot_be_written(digits_dir, tmp_path, capsys):
  (tmp_path / 'file').write_text('in the way')
  assert train_runs.train(tmp_path / 'file' / 'run', digits_dir) == 2
  error = capsys.readouterr().err
  assert error.splitlines()[-1].startswith(f'mixer-jax: {tmp_path}/file')
  assert error.endswith(': Not a directory\n')


def test_a_run_that_diverges_stops_and_saves_nothing_of_it(digits_dir, tmp_path, capsys):
  more = ('--config.optimizer.learning_rate=1e30', '--config.checkpoint_every=1',
          '--config.keep_checkpoints=9')  # fmt: skip
  assert train_runs.train(tmp_path, digits_dir, *more) == 2
  last = capsys.readouterr().err.splitlines()[-1]
  assert last.startswith('mixer-jax: ')
  saved = Store(tmp_path, keep=9).steps()
  assert 1 in saved
  assert max(saved) < 6
  assert f'step {max(saved) + 1}' in last
  for step in saved:
    for leaf in jax.tree.leaves(read_params(tmp_path / 'checkpoints' / str(step))[1]):
      assert np.isfinite(leaf).all()


@pytest.mark.long
def test_tensorboard_events_are_written_where_asked(digits_dir, tmp_path):
  process = train_runs.start(
    tmp_path, digits_dir, '--config.tensorboard=true', '--config.fewshot.every=1'
  )
  output, _ = process.communicate(timeout=200)
  assert process.returncode == 0, output
  assert 'oneDNN' not in output
  (events,) = (tmp_path / 'tensorboard').glob('events.out.tfevents.*')
  for name in (b'grad_norm', b'eval/top1', b'fewshot/5-shot'):
    assert name in events.read_bytes()


@pytest.mark.long
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(digits_dir, tmp_path):
  # A limit on the size of files stands for the full disk: arrays no longer fit.
  flags = train_runs.flags(tmp_path / 'full', digits_dir, '--config.model.hidden_dim=128')
  done = subprocess.run(
    ['bash', '-c', 'ulimit -f 60; exec "$@"', '_', sys.executable, '-m', 'mixer_jax', *flags],
    capture_output=True,
    text=True,
    check=False,
    timeout=200,
  )
  assert done.returncode == 74, done.stderr
  last = done.stderr.splitlines()[-1]
  assert last.startswith('mixer-jax: the state of step 3 could not be written to')
  assert 'File too large' in last
  assert 'Traceback' not in done.stderr
  assert not list((tmp_path / 'full' / 'checkpoints').iterdir())
