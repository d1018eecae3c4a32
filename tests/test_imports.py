"""Imports run one way, and touch nothing heavy before it is needed."""

import ast
import contextlib
import graphlib
import importlib.metadata
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parent.parent / 'mixer_jax'

# Which rooms a room may import; single files such as `errors` and `paths` are open to all.
ALLOWED = {
  'errors': set(),
  'paths': set(),
  'hardware': set(),
  'storage': set(),
  'home': set(),
  'runlog': set(),
  'pictures': set(),
  'models': set(),
  'parallel': {'models'},
  'data': set(),
  'checkpoints': {'models', 'parallel'},
  'training': {'models', 'parallel'},
  'evaluation': {'models', 'data', 'parallel', 'training'},
  'analysis': {'models', 'data', 'parallel', 'evaluation'},
  'planning': {
    *('models', 'parallel', 'data', 'training', 'evaluation', 'runlog', 'pictures', 'runs'),
  },
  'runs': {
    *('models', 'parallel', 'data', 'checkpoints', 'training', 'evaluation', 'analysis'),
    *('runlog', 'pictures'),
  },
  'bench': {
    *('models', 'parallel', 'data', 'checkpoints', 'training', 'evaluation', 'analysis'),
    *('runlog', 'pictures', 'runs'),
  },
  'webpage': {'models', 'checkpoints', 'runlog', 'runs'},
  'studies': {
    *('models', 'parallel', 'data', 'checkpoints', 'training', 'evaluation', 'analysis'),
    *('runlog', 'pictures', 'runs', 'bench'),
  },
  'commands': {
    *('models', 'parallel', 'data', 'checkpoints', 'training', 'evaluation', 'analysis'),
    *('runlog', 'pictures', 'runs', 'planning', 'bench', 'webpage', 'studies'),
  },
  'api': {'runs'},
  '__init__': {
    *(
      'api',
      'models',
      'checkpoints',
      'runs',
      'analysis',
      'evaluation',
      'planning',
      'bench',
      'studies',
    ),
  },
  '__main__': {'commands', 'runlog', 'parallel'},
}
# So that it runs where there is no more; SciPy comes with jax.
BARE = {'jax', 'numpy', 'scipy', 'optax', 'flax', 'mixer_jax'}


def imports(path: pathlib.Path) -> list[tuple[str, bool]]:
  """(module, is it imported when the file is) of every import in a file."""
  tree = ast.parse(path.read_text())
  top = set(tree.body)
  found = []
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      found += [(alias.name, node in top) for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      found += [(f'{node.module}.{alias.name}', node in top) for alias in node.names]
  return found


FILES = sorted(ROOT.rglob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
  room = path.relative_to(ROOT).parts[0].removesuffix('.py')
  for module, _ in imports(path):
    if module.split('.')[0] == 'mixer_jax' and len(module.split('.')) > 1:
      other = module.split('.')[1]
      if other in ALLOWED:
        assert other in {room, 'errors', 'paths', 'storage', 'home', 'hardware'} | ALLOWED[room], (
          f'{path}: {module}'
        )


def file_of(module: str) -> pathlib.Path | None:
  """The file of the package that an imported name comes from."""
  parts = module.split('.')[1:]
  for length in range(len(parts), 0, -1):
    path = ROOT.joinpath(*parts[:length])
    if path.with_suffix('.py').is_file():
      return path.with_suffix('.py')
    if (path / '__init__.py').is_file():
      return path / '__init__.py'
  return None


def test_no_two_files_import_each_other():
  graph = {
    path: {
      other
      for module, _ in imports(path)
      if module.startswith('mixer_jax.') and (other := file_of(module)) not in (None, path)
    }
    for path in FILES
  }
  with contextlib.suppress(graphlib.CycleError):
    graphlib.TopologicalSorter(graph).prepare()
    return
  circles = [(a, b) for a in graph for b in graph[a] if a < b and a in graph[b]]
  pytest.fail(f'files import each other, directly or in a longer circle: {circles}')


def test_a_command_imports_the_flags_alone_of_its_room():
  for path in (ROOT / 'commands').glob('*.py'):
    for module, _ in imports(path):
      if module.startswith('mixer_jax.commands'):
        assert module.split('.')[2] in ('flags', 'similarity_flags'), f'{path}: {module}'


def test_only_commands_parse_flags():
  for path in FILES:
    names = {module.split('.')[0] for module, _ in imports(path)}
    assert 'argparse' not in names or path.parent.name == 'commands', path
    if path.parent.name not in ('commands', 'runlog'):
      assert not re.search(r'\bTerminal\b', path.read_text()), path


def test_only_models_know_flax_and_only_the_store_knows_orbax():
  for path in FILES:
    names = {module.split('.')[0] for module, _ in imports(path)}
    assert 'flax' not in names or path.parent.name == 'models', path
    assert 'orbax' not in names or path.name == 'state_files.py', path
    assert 'ml_collections' not in names or path.name == 'config_file.py', path


def test_tensorflow_is_imported_by_no_file():
  for path in FILES:
    for module, at_import in imports(path):
      assert module.split('.')[0] != 'tensorflow', path
      if module.startswith(('clu.metric_writers', 'clu.periodic_actions')):
        assert not at_import, path
      if module.startswith('tensorflow_datasets'):
        assert not at_import or path.name in ('digits.py', 'imagenet21k.py'), path


@pytest.mark.parametrize('room', ['models', 'parallel', 'training'])
def test_model_and_step_need_jax_flax_optax_and_numpy_alone(room):
  for path in (ROOT / room).glob('*.py'):
    for module, _ in imports(path):
      name = module.split('.')[0]
      assert name in BARE or name in sys.stdlib_module_names, f'{path}: {module}'


def closure(path: pathlib.Path) -> set[pathlib.Path]:
  """The files of the package that are read when this one is imported, itself included."""
  found, left = set(), {path}
  while left:
    path = left.pop()
    found.add(path)
    modules = [module for module, at_import in imports(path) if at_import]
    files = {file_of(module) for module in modules if module.startswith('mixer_jax.')}
    packages = {file.parent / '__init__.py' for file in files if file}
    left |= {file for file in files | packages if file and file.is_file()} - found
  return found


@pytest.mark.parametrize('name', ['cka', 'cka_all_pairs', 'hsic', 'identification', 'layers'])
def test_cka_needs_jax_flax_optax_and_numpy_alone(name):
  for path in closure(ROOT / 'analysis' / f'{name}.py'):
    for module, at_import in imports(path):
      name = module.split('.')[0]
      assert not at_import or name in BARE or name in sys.stdlib_module_names, f'{path}: {module}'


def python(code: str) -> str:
  done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=False)
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_package_alone_imports_nothing_heavy():
  code = """
import sys, mixer_jax
print(sorted({'jax', 'flax', 'numpy', 'tensorflow', 'orbax', 'grain'} & set(sys.modules)))
print(dir(mixer_jax))
"""
  modules, names = python(code).splitlines()
  assert modules == '[]'
  assert "'apply'" in names
  assert "'load'" in names


def plain(name: str) -> str:
  """A distribution's name, as it may be compared."""
  return re.sub('[-_.]+', '-', name).lower()


def needed_by(*packages: str) -> set[str]:
  """Names of distributions: these, and all that pip installs with them."""
  found, left = set(), [*packages, 'fsspec', 'zipp']  # those two by etils[epath], of Orbax
  while left:
    name = plain(left.pop())
    if name in found:
      continue
    found.add(name)
    try:
      wanted = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:  # not for this system
      continue
    left += [re.split('[^A-Za-z0-9._-]', one)[0] for one in wanted if 'extra ==' not in one]
  return found


BARE_BENCH = """
import sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in BLOCKED:
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)
sys.meta_path.insert(0, Blocker())
from mixer_jax import MixerConfig, VARIANTS
from mixer_jax.__main__ import main
from mixer_jax.bench import measure
measure._CPU_SIDE = 128
VARIANTS['tiny'] = MixerConfig(16, 1, 16, 8, 16)
sys.exit(main(['bench', '--model=tiny', '--image-size=32', '--what=forward,loop,evaluate,cka,input',
               '--batch=8', '--rounds=1', '--steps=1']))
"""


def test_bench_runs_where_jax_flax_optax_and_numpy_were_installed_alone():
  enough = needed_by('jax', 'flax', 'optax', 'numpy')
  assert {'jaxlib', 'orbax-checkpoint', 'absl-py'} <= enough
  assert not {'ml-collections', 'grain', 'tensorflow-datasets', 'clu', 'matplotlib'} & enough
  blocked = {
    module
    for module, of in importlib.metadata.packages_distributions().items()
    if not {plain(name) for name in of} & {*enough, 'mixer-jax', 'setuptools'}
  }
  assert {'ml_collections', 'tensorflow_datasets', 'clu', 'cv2', 'PIL'} <= blocked
  text = python(BARE_BENCH.replace('BLOCKED', repr(blocked)))
  for part in ('forward ', 'loop ', 'evaluate ', 'cka '):
    assert f'\n{part}' in text
  assert '\ninput ' not in text


@pytest.mark.parametrize('command', ['', 'train', 'bench'])
def test_help_waits_for_nothing_heavy(command):
  code = f"""
import sys
from mixer_jax.__main__ import main
try:
  main({[*filter(None, [command]), '--help']})
except SystemExit:
  pass
print(sorted({{'jax', 'numpy', 'flax', 'ml_collections', 'grain', 'orbax'}} & set(sys.modules)))
"""
  assert python(code).splitlines()[-1] == '[]'


WITHOUT_TENSORFLOW = """
import sys
class Blocker:
  def find_spec(self, name, path=None, target=None):
    if name.split('.')[0] in ('tensorflow', 'tensorboard'):
      raise ModuleNotFoundError(f'No module named {name!r}', name=name)
if BLOCK:
  sys.meta_path.insert(0, Blocker())
import mixer_jax
mixer_jax.init, mixer_jax.apply, mixer_jax.features, mixer_jax.load, mixer_jax.VARIANTS
import mixer_jax.training.step, mixer_jax.training.loop, mixer_jax.evaluation.classify
import mixer_jax.checkpoints.store, mixer_jax.data.pipeline, mixer_jax.runs.training_run
config, params = mixer_jax.load(PATH)
print(mixer_jax.apply(config, params, __import__('numpy').zeros((1, 32, 32, 3), 'uint8')).shape)
print([name for name in sys.modules if name.split('.')[0] in ('tensorflow', 'tensorboard')])
"""


@pytest.mark.parametrize('block', [False, True])
def test_tensorflow_is_neither_loaded_nor_needed(block):
  weights = pathlib.Path(__file__).parent / 'golden' / 'mixer_tiny.npz'
  code = WITHOUT_TENSORFLOW.replace('BLOCK', str(block)).replace('PATH', repr(str(weights)))
  assert python(code).splitlines() == ['(1, 7)', '[]']


def test_an_unknown_name_is_an_attribute_error():
  import mixer_jax

  with pytest.raises(AttributeError, match='nothing'):
    mixer_jax.nothing  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
