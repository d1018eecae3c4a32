"""Every command line and every Python block of README and docs is executed.

Lines run in the order of their page, in one folder, with a small model and a few steps in place of
the documented ones. A line that is neither executed nor listed here with a reason fails.
"""

import os
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest
import tensorflow_datasets as tfds

import mixer_jax
from mixer_jax.__main__ import COMMANDS, main
from tests.docs.blocks import PAGES, ROOT, Line, blocks, command_lines
from tests.helpers import console, made
from tests.helpers.photos import encoded, photo

GOLDEN = ROOT / 'tests' / 'golden'

FEW_STEPS = (
  *('--config.total_steps=2', '--config.batch_size=16', '--config.eval_batch_size=64'),
  *('--config.eval_every=0', '--config.checkpoint_every=0', '--config.optimizer.warmup_steps=1'),
  *('--config.data.eval_split=test[:64]', '--config.data.threads=0'),
)
SMALL = (*FEW_STEPS, '--config.model.hidden_dim=16')
TINY = (*SMALL, '--config.model.num_blocks=1')
FOLDER = (
  *TINY,
  *('--config.total_epochs=0', '--config.batch_size=8', '--config.eval_batch_size=8'),
  *('--config.data.train_split=train[:80%]', '--config.data.eval_split=train[80%:]'),
  *('--config.model.image_size=32', '--config.model.dtype=float32'),
)
PLAN = (
  *('--config.model.num_blocks=1', '--config.model.hidden_dim=128'),
  *('--config.model.num_classes=10', '--config.batch_size=512'),
)


def of(group: str, *flags: str) -> tuple[str, ...]:
  """Return flags of an experiment as those of one group of a study's config."""
  return tuple(flag.replace('--config.', f'--config.{group}.') for flag in flags)


CKA_MODELS = (
  *('blocks_4', 'blocks_8', 'blocks_12', 'width_32', 'width_128'),
  *('half_a', 'half_b'),
)

# What is added to a line so that it takes seconds. The first row whose pattern is found counts;
# later flags win.
EXTRA: tuple[tuple[str, tuple[str, ...]], ...] = (
  (r'train .*digits\.py.*num_blocks=8', SMALL),
  (
    r'train .*digits\.py.*test_split=test',
    (*TINY, '--config.eval_every=1', '--config.data.eval_split=train[80%:]'),
  ),
  (r'train .*digits\.py.*fewshot', (*TINY, '--config.eval_every=2', '--config.fewshot.seeds=1')),
  (r'train .*digits\.py', TINY),
  (r'train .*digits_vit\.py', FEW_STEPS),
  (r'train .*digits_bit\.py', (*FEW_STEPS, '--config.model.stages=1')),
  (r'train .*digits_finetune\.py', FEW_STEPS),
  (r'train .*identify\.py', (*SMALL, '--config.model.num_blocks=2')),
  (r'train .*folder:DIR', FOLDER),
  (r'^mixer-jax data prepare cifar10', ('--data-dir=tfds',)),  # prepared there already
  (r'^mixer-jax fewshot', ('--seeds=1',)),
  (r'^mixer-jax probe', ('--iterations=20',)),
  (r'^mixer-jax shardings .*H/14', ('--config.model.num_blocks=2',)),
  (
    r'^mixer-jax bench .*--config',
    (
      *('--config.data.name=digits', '--config.data.eval_split=test', '--batch=8', '--rounds=1'),
      *('--config.model.image_size=16', '--config.model.patch_size=4', '--steps=1', '--peak=1'),
    ),
  ),
  (
    r'^mixer-jax bench',
    ('--model=S/32', '--image-size=32', '--batch=8', '--rounds=1', '--steps=1', '--peak=1'),
  ),
  (
    r'^mixer-jax plan .*--suggest',  # too large as well, and compiled in seconds
    (
      *(
        '--config.model.num_blocks=1',
        '--config.model.hidden_dim=64',
        '--config.model.patch_size=4',
      ),
      *('--config.model.image_size=16', '--config.model.num_classes=10', '--config.mixup=0'),
      *('--config.model.channels_mlp_dim=256', '--config.batch_size=16777216'),
    ),
  ),
  (r'^mixer-jax plan', PLAN),
  (
    r'^mixer-jax permute',
    (
      *('--config.seeds=1', *of('models.mixer', *TINY)),
      *of('models.resnet', *FEW_STEPS, '--config.model.stages=1'),
      *of('models.vit', *TINY),
    ),
  ),
  (
    r'^mixer-jax scaling',
    (
      *('--config.seeds=1', '--config.percents=50,100', '--config.epochs=0.03,0.015'),
      *(
        flag
        for name in ('mixer-s', 'mixer-b', 'resnet', 'vit')
        for flag in of(
          f'models.{name}',
          *FEW_STEPS,
          '--config.eval_every=1',
          '--config.data.eval_split=train[80%:]',
        )
      ),
      *of('models.resnet', '--config.model.stages=1'),
    ),
  ),
  (
    r'^mixer-jax sweep',
    (*FEW_STEPS, '--config.data.train_split=train[:10%]', '--config.data.test_split=test[:64]'),
  ),
  (
    r'^mixer-jax prune',
    (
      *('--config.pruning.removed=0,1', '--config.pruning.random_seeds=1'),
      *('--config.pruning.ways=at_once', '--config.pruning.score_split=train[:64]'),
      *('--config.pruning.latency_rounds=2', '--config.pruning.scores=cosine,random'),
      *of('recovery', *FEW_STEPS),
    ),
  ),
  (
    r'^mixer-jax cka-study',
    (
      *('--config.seeds=2', '--config.kernels=linear', '--config.probe.iterations=3'),
      *(
        flag
        for name in (
          *(f'blocks_{n}' for n in (4, 8, 12)),
          'width_32',
          'width_128',
          'half_a',
          'half_b',
        )
        for flag in of(f'models.{name}', *TINY)
      ),
    ),
  ),
  (
    r'^mixer-jax transfer .*digits',
    (
      *('--tasks=avg5/cifar10', '--config.seeds=1', '--config.learning_rates.avg5=0.05'),
      *('--config.tasks.*.data.data_dir=tfds', '--config.tasks.*.total_steps=2'),
      *('--config.tasks.*.batch_size=16', '--config.tasks.*.eval_batch_size=16'),
      *('--config.tasks.*.optimizer.warmup_steps=1', '--config.tasks.*.data.threads=0'),
    ),
  ),
  (r'^launch/local_pod\.sh', (*TINY, '--config.processes.start_seconds=120')),
)

# Lines that cannot come to their end here: what they need, their exit code, and their message.
REFUSED: tuple[tuple[str, str, int, str], ...] = (
  (r'evaluate .*imagenet2012$', 'the prepared ImageNet', 2, 'imagenet2012'),
  (r'evaluate .*folder:DIR', 'a published file', 2, 'Mixer-B_16'),
  (r'predict --checkpoint=imagenet1k', 'a published file', 2, 'Mixer-B_16'),
  (
    r'train .*(pretrain|augreg)\.py:[\w/-]+,imagenet',
    'the prepared ImageNet',
    2,
    'imagenet(2012|21k)',
  ),
  (r'train .*finetune\.py:[\w/-]+,cifar10', 'the prepared CIFAR-10', 2, 'data prepare cifar10'),
  (
    r'transfer --suite=vtab',
    'the prepared tasks',
    2,
    'data sets are not prepared.*data prepare dtd',
  ),
  (r'plan .*--suggest', 'a larger slice: the page says so', 3, 'does not fit'),
  (r'data prepare (imagenet21k|imagenet2012)', 'the archive of ImageNet', 2, 'archive|manual'),
)

# Lines that are not run at all, with the reason.
NOT_RUN = {
  'source .venv/bin/activate': 'changes the shell of the reader',
  'python3 -m venv .venv': 'needs a package registry; CI installs in the same way (make .venv)',
  '.venv/bin/pip install -r requirements.txt': 'needs a package registry',
  '.venv/bin/pip install --no-deps -e .': 'needs a package registry',
}


def flags_like(text: str) -> list[str]:
  """Return what is added to a line that begins with this text."""
  return [*next(flags for pattern, flags in EXTRA if re.search(pattern, text))]


def overrides_like(text: str) -> dict[str, str]:
  """Return the same as field -> value."""
  flags = (flag.removeprefix('--config.').split('=', 1) for flag in flags_like(text))
  return dict(flags)


# Takes more than a few seconds even so.
LONG = re.compile(
  r'^mixer-jax (permute|scaling|sweep|prune|cka-study|plan|bench|transfer --tasks|identify)'
  r'|^mixer-jax (data prepare|report .*permute|train .*(identify|folder:|stopped|fewshot|digits8))'
  r'|^mixer-jax (convert build/digits8|evaluate .*stopped)|^launch/local_pod\.sh'
)

# Text of Python blocks -> what takes its place, so that they take seconds.
IN_PYTHON = {
  # Weights that are not here: a small file of the same layout.
  "'imagenet21k/Mixer-B_16'": repr(str(GOLDEN / 'mixer_tiny.npz')),
  "'timm/mixer_b16_224.miil_in21k_ft_in1k'": repr(str(GOLDEN / 'mixer_tiny.timm.safetensors')),
  # Fewer blocks.
  "mixer_jax.VARIANTS['B/16']": 'mixer_jax.MixerConfig(16, 4, 768, 384, 3072)',
  "mixer_jax.VARIANTS['S/32'], jax": 'mixer_jax.MixerConfig(32, 1, 512, 256, 2048), jax',
  # Few steps of a small model.
  "{'total_steps': 600, ": (
    "{'total_steps': 2, 'batch_size': 16, 'eval_batch_size': 64, 'optimizer.warmup_steps': 1, "
    "'model.hidden_dim': 16, 'model.num_blocks': 1, 'data.eval_split': 'test[:64]', "
  ),
  "{'model.dtype': 'bfloat16'}": "{'model.dtype': 'bfloat16', 'model.num_blocks': 1}",
  "overrides={'seeds': 1}": f'overrides={overrides_like("mixer-jax permute")}',
}

# Python blocks that take more than a few seconds.
LONG_PYTHON = re.compile(r'mixer_jax\.(run_study|plan|benchmark)\(')


def extra(line: Line) -> tuple[str, ...]:
  """Return what is added to a line."""
  return next((flags for pattern, flags in EXTRA if re.search(pattern, line.text)), ())


def run_line(line: Line, capsys) -> None:
  """Execute a line with its extra flags and check its exit code."""
  words = shlex.split(line.text)
  name = f'{line.page}:{line.number}: {line.text}'
  expected, message = 0, ''
  for pattern, _, code, text in REFUSED:
    if re.search(pattern, line.text):
      expected, message = code, text
  if words[0] == 'mixer-jax':
    assert words[1] in COMMANDS, name
    capsys.readouterr()
    code = main([*words[1:], *extra(line)])
    error = capsys.readouterr().err
  elif words[0] == 'launch/local_pod.sh':
    done = subprocess.run(
      [*words, *extra(line)],
      env={**os.environ, 'PYTHON': sys.executable, 'PYTHONPATH': str(ROOT)},
      capture_output=True,
      text=True,
      timeout=500,
      check=False,
    )
    code, error = done.returncode, done.stderr
  elif words[0] == 'make':
    done = subprocess.run(
      ['make', '-n', '-C', str(ROOT), *words[1:]], capture_output=True, text=True, check=False
    )
    code, error = done.returncode, done.stderr
  else:
    pytest.fail(f'{name}\nis neither executed nor listed with a reason')
  assert code == expected, f'{name}\nended with {code}, not {expected}:\n{error[-3000:]}'
  assert re.search(message, error), f'{name}\ndid not say {message!r}, but:\n{error[-3000:]}'


def check_flags(line: Line, capsys) -> None:
  """Check command, flags and config of a line without running it: an added field is refused."""
  words = shlex.split(line.text)
  words = words[words.index('train') :] if words[0] != 'mixer-jax' else words[1:]
  has_config = any(word.startswith('--config=') for word in words)
  strange = '--config.no_such_field=1' if has_config else '--no-such-flag'
  capsys.readouterr()
  try:
    code = main([*words, strange])
  except SystemExit as error:  # argparse
    code = error.code
  error = capsys.readouterr().err
  assert code == 2, f'{line.page}:{line.number}: {line.text}\n{error}'
  assert 'no_such_field' in error or 'no-such-flag' in error, f'{line.text}\n{error}'


@pytest.fixture(scope='module')
def world(tmp_path_factory, digits_dir, compiled):
  """A folder with all that the pages take for granted: a trained and a fine-tuned model, images."""
  root = tmp_path_factory.mktemp('world')
  for name in ('configs', 'launch'):
    (root / name).symlink_to(ROOT / name)
  for index in range(30):
    path = root / 'DIR' / 'ab'[index % 2] / f'{index:02}.jpg'
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encoded(photo(40, 50, index % 2)))
  shutil.copytree(root / 'DIR' / 'a', root / 'PHOTOS')
  shutil.copytree(root / 'DIR' / 'b', root / 'more')
  (root / 'my').mkdir()
  shutil.copy(GOLDEN / 'mixer_tiny.timm.safetensors', root / 'my' / 'model.safetensors')
  (root / 'mirror').mkdir()
  with pytest.MonkeyPatch.context() as patch, console.restored_logging():
    patch.chdir(root)
    patch.setenv('TFDS_DATA_DIR', str(digits_dir))
    patch.setattr(tfds.core.constants, 'DATA_DIR', str(digits_dir))  # read when it was imported
    patch.setenv('MIXER_JAX_CACHE', str(root / 'cache'))
    patch.setenv('MIXER_JAX_MIRROR', str(root / 'mirror'))
    finetune = ('--config=configs/digits_finetune.py', '--config.init_from=build/digits')
    assert main(['train', '--config=configs/digits.py', '--workdir=build/digits', *TINY]) == 0
    assert main(['train', *finetune, '--workdir=build/digits32', *FEW_STEPS]) == 0
    assert main(['convert', 'build/digits', 'build/digits.npz']) == 0
    from mixer_jax.data.catalog import open_source

    (root / 'build' / 'demo').mkdir()
    image = open_source('digits', 'test', str(digits_dir))[0]['image']
    (root / 'build' / 'demo' / 'digit.png').write_bytes(image)
    yield root


def run_page(page: pathlib.Path, capsys, *, long: bool) -> None:
  """Execute a page; `convert` does not overwrite what another page has written."""
  for path in (*pathlib.Path('build').glob('*.npz'), *pathlib.Path('build').glob('*.safetensors')):
    if path.name != 'digits.npz':
      path.unlink()
  for line in command_lines(page):
    if line.text in NOT_RUN:
      continue
    if LONG.search(line.text) and not long:
      check_flags(line, capsys)
    else:
      run_line(line, capsys)


ON_GOOGLE_CLOUD = 'tpu.md'
RUNNABLE = [page for page in PAGES if page.name != ON_GOOGLE_CLOUD and command_lines(page)]
WITH_LONG = [p for p in RUNNABLE if any(LONG.search(line.text) for line in command_lines(p))]
WITH_PYTHON = [page for page in PAGES if blocks(page, 'python')]
WITH_LONG_PYTHON = [
  page for page in PAGES if any(LONG_PYTHON.search(text) for _, text in blocks(page, 'python'))
]


def by_length(pages: list[pathlib.Path]) -> list:
  """Return the pages as test parameters; all but two are for `make test-all`."""
  long = lambda page: () if page.name in ('README.md', 'python.md') else (pytest.mark.long,)
  return [pytest.param(page, id=page.name, marks=long(page)) for page in pages]


@pytest.mark.parametrize('page', by_length(RUNNABLE))
def test_command_lines(page, world, capsys):
  run_page(page, capsys, long=False)


@pytest.mark.long
@pytest.mark.parametrize('page', WITH_LONG, ids=lambda page: page.name)
def test_all_command_lines(page, world, capsys):
  folder = world / 'tfds'
  if page.name in ('studies.md', 'training.md') and not folder.exists():
    records = [{'image': photo(32, 32, i % 2), 'label': i % 10, 'id': str(i)} for i in range(60)]
    splits = {'train': records, 'test': records[:20]}
    made.prepare_splits('cifar10', splits, folder, file_format='array_record')
  run_page(page, capsys, long=True)


def run_python(page: pathlib.Path, *, long: bool) -> None:
  """Execute the Python blocks of a page, one after the other, with the same names."""
  names = {}
  for number, text in blocks(page, 'python'):
    if LONG_PYTHON.search(text) and not long:
      for name in re.findall(r'\bmixer_jax\.(\w+)\(', text):
        assert callable(getattr(mixer_jax, name)), f'{page.name}: mixer_jax.{name}'
      continue
    for documented, small in IN_PYTHON.items():
      text = text.replace(documented, small)
    # So that a traceback has the line number of the page.
    exec(compile('\n' * (number - 1) + text, str(page), 'exec'), names)


@pytest.mark.parametrize('page', by_length(WITH_PYTHON))
def test_python_blocks(page, world):
  run_python(page, long=False)


@pytest.mark.long
@pytest.mark.parametrize('page', WITH_LONG_PYTHON, ids=lambda page: page.name)
def test_all_python_blocks(page, world):
  run_python(page, long=True)


@pytest.mark.parametrize('text', ['mixer-jax models | head', 'rm -r build', 'mixer-jax no-command'])
def test_an_unlisted_line_fails(text, capsys):
  with pytest.raises((AssertionError, pytest.fail.Exception)):
    run_line(Line('page.md', 1, text), capsys)


def test_the_lists_are_about_lines_that_exist():
  texts = [line.text for page in PAGES for line in command_lines(page)]
  for pattern in (*(row[0] for row in EXTRA), *(row[0] for row in REFUSED)):
    assert any(re.search(pattern, text) for text in texts), f'no line is like {pattern}'
  for text in NOT_RUN:
    assert text in texts
  code = [text for page in PAGES for _, text in blocks(page, 'python')]
  for documented in IN_PYTHON:
    assert any(documented in text for text in code), f'no Python block has {documented}'


# What stands in for the tools of tpu.md: each prints its arguments, and `gcloud` a number.
STAND_IN = (
  '#!/usr/bin/env bash\nprintf "%s " "$(basename "$0")" "$@" >>"$LOG"; echo >>"$LOG"; echo 7\n'
)


def test_cloud_commands(tmp_path, capsys, monkeypatch, digits_dir):
  """The page as one shell script, with a `gcloud` that only records what it is asked."""
  page = ROOT / 'docs' / ON_GOOGLE_CLOUD
  lines = [line for line in command_lines(page) if not line.text.startswith('launch/local_pod.sh')]
  (tmp_path / 'bin').mkdir()
  for tool in ('gcloud', 'mixer-jax'):
    (tmp_path / 'bin' / tool).write_text(STAND_IN)
    (tmp_path / 'bin' / tool).chmod(0o755)
  text = '\n'.join(line.text for line in lines if line.text not in NOT_RUN)
  log = tmp_path / 'log'
  done = subprocess.run(
    ['bash', '-euc', text],
    cwd=ROOT,
    env={
      **os.environ,
      'PATH': f'{tmp_path / "bin"}{os.pathsep}{os.environ["PATH"]}',
      'LOG': str(log),
      'DRY_RUN': '1',
    },
    capture_output=True,
    text=True,
    check=False,
  )
  assert done.returncode == 0, done.stderr
  asked = log.read_text().splitlines()
  direct = [line for line in lines if re.search(r'^gcloud |\$\(gcloud ', line.text)]
  assert len([line for line in asked if line.startswith('gcloud ')]) == len(direct)
  assert 'buckets create gs://my-mixer-bucket --location=us-central1' in log.read_text()
  assert 'serviceAccount:7-compute@developer.gserviceaccount.com' in log.read_text()
  # tpu_vm.sh printed what it would ask, for every one of its lines.
  scripts = [line for line in lines if line.text.startswith('launch/tpu_vm.sh')]
  for line in scripts:
    verb = line.text.split()[1]
    verbs = 'create', 'setup', 'run', 'status', 'logs', 'profile', 'stop', 'delete', 'babysit'
    assert verb in verbs
  assert done.stdout.count('gcloud') >= len(scripts), done.stdout
  # The commands that would run on the workers, and those on the laptop.
  monkeypatch.chdir(ROOT)
  for line in lines:
    if line.text.startswith('mixer-jax plan') or ' -- train ' in line.text:
      check_flags(Line(line.page, line.number, line.text.replace('$BUCKET', 'x')), capsys)
