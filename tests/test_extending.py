"""A model family from outside the package: this module and one call of `register`.

It is a convolution with the running mean of its activations as model state, blocks with a
projection of their own width, and a head.
"""

import collections
import dataclasses
import importlib.util
import json
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec as P

import mixer_jax
from mixer_jax import checkpoints, models
from mixer_jax.__main__ import main
from mixer_jax.checkpoints import describe
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import UserError
from mixer_jax.models import depth, family, layers, parameters, resolution, validation
from mixer_jax.models.parameters import Param, flatten, head_bias, zeros
from mixer_jax.parallel import mesh as meshes
from mixer_jax.planning import sharding_table
from mixer_jax.runs.config_file import load_config
from mixer_jax.training import step as steps
from mixer_jax.training.optimizer import make_optimizer, make_schedule
from mixer_jax.training.sam import Sam
from tests.helpers import configs, train_runs

# --- The family ---------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class ToyConfig:
  """Fields of a toy."""

  num_blocks: int = 2
  width: int = 8
  image_size: int = 8
  num_classes: int = 4
  input_range: str = '[-1, 1]'
  dtype: str = 'float32'
  head_bias: float = 0.0
  momentum: float = 0.5
  family: str = dataclasses.field(default='toy', repr=False)

  def __post_init__(self):
    validation.check(self)


NAME = 'Toy'
Config = ToyConfig
ARCHITECTURE = ('num_blocks', 'width')
SIZES = {'C': 'width', 'N': 'num_classes'}
SPLIT = {'C': 'fsdp', 'H': 'model'}
PARAMETERS = {
  'stem/kernel': Param('223C', decay=True),
  'Toy_*/up/kernel': Param('CH', decay=True),
  'Toy_*/up/bias': Param('H', zeros),
  'Toy_*/down/kernel': Param('HC', decay=True),
  'Toy_*/down/gain': Param('C', zeros, decay=True),
  'head/kernel': Param('CN', zeros, decay=True),
  'head/bias': Param('N', head_bias),
}
STATE = {'center/mean': Param('C', zeros)}


def block_sizes(config: ToyConfig, block: int) -> dict[str, int]:
  """Hidden widths: twice the channels, and more from block to block."""
  return {'H': (2 + 2 * block) * config.width}


def run(config: ToyConfig, params: dict, images, *, state: dict, train: bool, key):
  """(B, H, W, 3) -> features and the running mean."""
  del key
  x_BHWC = layers.conv(params['stem'], images, config.dtype, stride=2)
  mean_C = state['center']['mean']
  if train:
    now_C = x_BHWC.mean((0, 1, 2))
    x_BHWC = x_BHWC - now_C
    mean_C = config.momentum * mean_C + (1 - config.momentum) * now_C
    state = {'center': {'mean': jax.lax.stop_gradient(mean_C)}}
  else:
    x_BHWC = x_BHWC - mean_C
  features = collections.OrderedDict(stem=x_BHWC)
  for i in range(config.num_blocks):
    block = params[f'Toy_{i}']
    hidden = jax.nn.relu(layers.dense(block['up'], x_BHWC, config.dtype))
    x_BHWC = x_BHWC + hidden @ block['down']['kernel'] * (1 + block['down']['gain'])
    features[f'block_{i}'] = x_BHWC
  features['pre_logits'] = x_BHWC.mean((1, 2), dtype=jnp.float32)
  features['logits'] = layers.dense(params['head'], features['pre_logits'], jnp.float32)
  return features, state


# --- The row ------------------------------------------------------------------------------------

models.register('toy', __name__)

# --- What follows -------------------------------------------------------------------------------

CONFIG = ToyConfig()
OPTIMIZER = configs.optimizer(warmup_steps=0, learning_rate=0.01)


def images(count: int = 8, seed: int = 0) -> np.ndarray:
  return np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), dtype=np.uint8)


def batch(seed: int = 0) -> dict[str, np.ndarray]:
  labels = np.random.default_rng(seed).integers(0, 4, 8).astype(np.int32)
  return {'image': images(seed=seed), 'label': labels}


def transform() -> tuple:
  schedule = make_schedule(OPTIMIZER, 10)
  return make_optimizer(OPTIMIZER, schedule), schedule


def trained(mesh, count: int = 2, **how) -> steps.TrainState:
  optimizer, schedule = transform()
  state = steps.init_state(CONFIG, optimizer, mesh, seed=0)
  train_step = steps.make_train_step(CONFIG, optimizer, schedule, mesh, **how)
  for i in range(count):
    state, metrics = train_step(state, meshes.put(mesh, batch(i)))
    assert np.isfinite(float(metrics['loss']))
  return state


def test_it_is_initialised_counted_and_applied():
  weights = models.init(CONFIG, jax.random.key(0))
  params, state = models.split(weights)
  shapes = {name: leaf.shape for name, leaf in flatten(params).items()}
  assert shapes == models.param_shapes(CONFIG)
  assert shapes['Toy_1/up/kernel'] == (8, 32)
  assert list(flatten(state)) == ['center/mean']
  assert models.num_params(CONFIG) == sum(map(np.prod, shapes.values()))
  logits = mixer_jax.apply(CONFIG, weights, images())
  assert logits.shape == (8, 4)
  np.testing.assert_array_equal(mixer_jax.apply(CONFIG, params, images(), state=state), logits)
  names = list(mixer_jax.features(CONFIG, weights, images()))
  assert names == ['stem', 'block_0', 'block_1', 'pre_logits', 'logits']
  with pytest.raises(UserError, match=r'state is not that of .*: center/mean \(8,\) is missing'):
    mixer_jax.apply(CONFIG, params, images())
  assert models.config_from(dataclasses.asdict(CONFIG)) == CONFIG


def test_its_flops_are_counted():
  stem = 4 * 4 * (2 * 2 * 3) * 8
  blocks = 4 * 4 * 2 * (8 * 16 + 8 * 32)
  assert models.forward_flops(CONFIG) == 2 * (stem + blocks + 8 * 4)


def test_its_state_is_sharded_by_its_table():
  mesh = meshes.make_mesh(2, 2, 2)
  state = steps.abstract_state(CONFIG, transform()[0], mesh)
  specs = {name: leaf.sharding.spec for name, leaf in flatten(state).items()}
  assert specs['params/Toy_0/up/kernel'] == P('fsdp', 'model')
  assert specs['params/Toy_1/up/bias'] == P('model')
  assert specs['params/head/kernel'] == P('fsdp')
  assert specs['opt_state/1/mu/Toy_1/down/kernel'] == P('model', 'fsdp')
  assert specs['model_state/center/mean'] == P()
  table = sharding_table.sharding_table(CONFIG, transform()[0], mesh)
  assert [kind.name for kind in table.kinds] == list(PARAMETERS)
  assert table.sums['model_state'].whole == 4 * 8


def test_weight_decay_follows_its_table():
  mask = flatten(models.decayed(models.split(models.shapes(CONFIG))[0]))
  assert mask['Toy_0/down/gain']
  assert not mask['Toy_0/up/bias']


def test_training_updates_the_model_state_on_any_mesh():
  one = trained(meshes.make_mesh(devices=jax.devices()[:1]))
  many = trained(meshes.make_mesh(2, 2, 2))
  for name, leaf in flatten(jax.device_get(one)).items():
    found = flatten(jax.device_get(many))[name]
    np.testing.assert_allclose(found, leaf, rtol=1e-4, atol=1e-6, err_msg=name)
  # The running mean of the stem, by hand: at first the weights are those of `init`.
  first = trained(meshes.make_mesh(), count=1)
  params, _ = models.split(models.init(CONFIG, jax.random.key(0)))
  x = models.from_levels(CONFIG, batch(0)['image'].astype(np.float32))
  stem_C = np.asarray(layers.conv(params['stem'], jnp.asarray(x), 'float32', stride=2))
  wanted = 0.5 * stem_C.mean((0, 1, 2))
  np.testing.assert_allclose(first.model_state['center']['mean'], wanted, rtol=1e-4, atol=1e-6)
  # And evaluation uses it.
  logits = mixer_jax.apply(CONFIG, one.weights, images())
  moved = {'center': {'mean': one.model_state['center']['mean'] + 1}}
  assert np.abs(mixer_jax.apply(CONFIG, one.params, images(), state=moved) - logits).max() > 1e-3


def test_micro_batches_update_the_model_state_one_after_the_other():
  mesh = meshes.make_mesh(devices=jax.devices()[:1])
  found = trained(mesh, count=1, accumulate=2).model_state['center']['mean']
  params, _ = models.split(models.init(CONFIG, jax.random.key(0)))
  x = models.from_levels(CONFIG, batch(0)['image'].astype(np.float32))
  stem = np.asarray(layers.conv(params['stem'], jnp.asarray(x), 'float32', stride=2))
  first, second = stem[0::2].mean((0, 1, 2)), stem[1::2].mean((0, 1, 2))
  np.testing.assert_allclose(found, 0.25 * first + 0.5 * second, rtol=1e-4, atol=1e-6)


def test_it_is_saved_verified_and_loaded(tmp_path):
  mesh = meshes.make_mesh(2, 2, 2)
  state = trained(mesh)
  store = Store(tmp_path, keep=1)
  store.save(2, state.parts(), {'model': dataclasses.asdict(CONFIG)})
  store.wait()
  digests = store.metadata(2)['digests']
  assert 'model_state/center/mean' in digests
  restored = Store(tmp_path, keep=1).restore(
    steps.abstract_state(CONFIG, transform()[0], mesh).parts()
  )
  assert restored is not None
  again = steps.from_parts(*restored, mesh)
  jax.tree.map(np.testing.assert_array_equal, jax.device_get(again), jax.device_get(state))
  config, weights = mixer_jax.load(tmp_path)
  assert config == CONFIG
  np.testing.assert_array_equal(
    mixer_jax.apply(config, weights, images()),
    mixer_jax.apply(CONFIG, jax.device_get(state.weights), images()),
  )
  about = describe.describe(checkpoints.read(tmp_path))
  assert json.dumps(about)
  assert (about['variant'], about['width'], about['num_blocks']) == ('Toy', 8, 2)
  other, changed = mixer_jax.load(tmp_path, num_classes=3)
  assert mixer_jax.apply(other, changed, images()).shape == (8, 3)
  with pytest.raises(UserError, match='is a Toy: it has no GELU'):
    mixer_jax.load(tmp_path, gelu='erf')


def test_what_it_cannot_do_is_one_line(tmp_path):
  weights = models.init(CONFIG, jax.random.key(0))
  for call, message in (
    (lambda: resolution.grow(CONFIG, weights, 16), 'a Toy cannot be given another image size'),
    (lambda: depth.with_blocks(CONFIG, weights, [0]), 'a Toy does not define keep_blocks'),
    (lambda: mixer_jax.save(tmp_path / 'w.npz', CONFIG, weights), 'a Toy has no layout of weights'),
  ):
    with pytest.raises(UserError, match=message):
      call()


def test_a_name_is_given_once():
  models.register('toy', __name__)
  with pytest.raises(ValueError, match=r'is mixer_jax\.models\.mixer already'):
    models.register('mixer', 'elsewhere')
  with pytest.raises(UserError, match="must be 'mixer', 'resnet', 'vit' or 'toy', not 'cnn'"):
    models.config_from({'family': 'cnn'})


def test_its_state_follows_the_first_pass_of_sharpness_aware_minimisation():
  mesh = meshes.make_mesh()
  plain, twice = (
    trained(mesh, 1, accumulate=2, sam=sam) for sam in (None, Sam(lambda _: 0.5, 0.0))
  )
  jax.tree.map(np.testing.assert_array_equal, plain.model_state, twice.model_state)
  moved = lambda state: np.asarray(state.params['stem']['kernel'])
  assert np.abs(moved(plain) - moved(twice)).max() > 1e-5


def test_names_of_two_families_need_the_config():
  head = {'head': {'kernel': np.zeros((8, 4), np.float32)}}
  mesh = meshes.make_mesh(2, 2, 2)
  assert meshes.put_replicated(mesh, head, CONFIG)['head']['kernel'].sharding.spec == P('fsdp')
  find = parameters.row_finder(PARAMETERS)
  assert find('a/b/head/bias') == ('head/bias', PARAMETERS['head/bias'])
  assert find('Toy_12/up/bias') == ('Toy_*/up/bias', PARAMETERS['Toy_*/up/bias'])
  assert find('Toy_x/up/bias') is None


CONFIG_FILE = f"""
import mixer_jax
from configs import common, digits

mixer_jax.register_family('toy', {__name__!r})


def get_config():
  config = digits.get_config()
  common.use_family(config, 'toy')
  config.model.num_blocks = 1
  return config
"""


def test_the_commands_train_evaluate_and_describe_it(tmp_path, digits_dir, capsys, monkeypatch):
  (tmp_path / 'toy.py').write_text(CONFIG_FILE)
  config, workdir = str(tmp_path / 'toy.py'), str(tmp_path / 'run')
  assert train_runs.train(workdir, digits_dir, config=config) == 0
  assert train_runs.train(workdir, digits_dir, '--config.total_steps=6', config=config) == 0
  rows = [json.loads(row) for row in (tmp_path / 'run' / 'metrics.jsonl').read_text().splitlines()]
  last = [row for row in rows if row.get('event') == 'eval'][-1]
  assert 'model_state' in {path.name for path in (tmp_path / 'run' / 'checkpoints' / '6').iterdir()}
  capsys.readouterr()
  assert main(['evaluate', f'--checkpoint={workdir}', f'--json={tmp_path}/report.json']) == 0
  report = json.loads((tmp_path / 'report.json').read_text())
  assert report['loss'] == pytest.approx(last['loss'], rel=1e-5)
  assert main(['inspect', workdir]) == 0
  assert main(['shardings', f'--config={config}', '--devices=8']) == 0
  assert 'Toy_*/up/kernel' in capsys.readouterr().out

  # Another process knows the family only if a module registers it.
  monkeypatch.setattr(family, '_added', {})
  assert main(['inspect', workdir]) == 2
  error = capsys.readouterr().err
  assert "not 'toy', which is not registered here" in error
  assert '--import=MODULE' in error
  (tmp_path / 'toy_plugin.py').write_text(
    f"import mixer_jax\nmixer_jax.register_family('toy', {__name__!r})\n"
  )
  monkeypatch.chdir(tmp_path)
  monkeypatch.setattr(sys, 'path', [place for place in sys.path if place])
  assert main(['inspect', workdir, '--import=toy_plugin']) == 0
  assert main(['inspect', workdir, '--import=toy_plug_out']) == 2
  assert '--import=toy_plug_out: ModuleNotFoundError: No module named' in capsys.readouterr().err


def test_a_family_beside_its_config_file_is_found_by_other_processes(tmp_path, monkeypatch):
  monkeypatch.setattr(family, '_added', {})
  source = pathlib.Path(__file__).read_text().split('models.register(')[0]
  (tmp_path / 'own_toy.py').write_text(source.replace("'toy'", "'own_toy'"))
  text = CONFIG_FILE.replace(__name__, 'own_toy').replace("'toy'", "'own_toy'")
  (tmp_path / 'own.py').write_text(text)
  model = load_config(str(tmp_path / 'own.py'))['model']
  assert models.config_type(model).__module__ == 'own_toy'
  assert family.added_folders() == [str(tmp_path)]


@pytest.mark.skipif(importlib.util.find_spec('libtpu') is None, reason='needs the TPU compiler')
def test_it_is_planned():
  from mixer_jax.planning.compiler import Program, compile_program
  from mixer_jax.training.mixup import MixupConfig

  program = Program(
    topology='v3:2x2',
    mesh=(8, 1, 1),
    model=CONFIG,
    optimizer=OPTIMIZER,
    total_steps=10,
    loss='softmax',
    batch_size=64,
    accumulate=1,
    mixup=MixupConfig(),
    eval_batch_size=64,
    eval_level='uint8',
  )
  steps = []
  facts = compile_program(program, waiting=lambda step, seconds: steps.append(step))
  assert list(dict.fromkeys(steps)) == ['training', 'evaluation']
  assert facts.step.temporaries is not None
  assert facts.evaluation is not None
  assert facts.parameters == 4 * (models.num_params(CONFIG) + 8)


def test_optax_updates_params_alone():
  optimizer = optax.sgd(0.1)
  state = steps.make_state(models.init(CONFIG, jax.random.key(0)), optimizer)
  assert set(state.parts()) == {'params', 'optimizer', 'model_state'}
