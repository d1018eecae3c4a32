"""Families from outside the package that cannot be imported or whose tables are faulty."""

import dataclasses
import importlib.metadata
import logging
import sys
import types

import pytest

from mixer_jax import models
from mixer_jax.errors import UserError
from mixer_jax.models import family
from mixer_jax.models.parameters import Param


@dataclasses.dataclass(frozen=True)
class ZapConfig:
  """Fields of a family without blocks."""

  width: int = 8
  image_size: int = 8
  num_classes: int = 4
  input_range: str = '[-1, 1]'
  dtype: str = 'float32'
  head_bias: float = 0.0
  family: str = 'zap'

  @property
  def twice(self) -> int:
    """Twice the width."""
    return 2 * self.width


PARAMETERS = {
  'stem/kernel': Param('3C'),
  'head/kernel': Param('CN'),
  'head/bias': Param('N'),
}
DEFINED = {
  'NAME': 'Zap',
  'Config': ZapConfig,
  'PARAMETERS': PARAMETERS,
  'SIZES': {'C': 'twice', 'N': 'num_classes'},
  'SPLIT': {'C': 'fsdp'},
  'ARCHITECTURE': ('width',),
  'run': lambda *args, **how: None,
}


@pytest.fixture(autouse=True)
def registry(monkeypatch):
  """Undo what a test registers."""
  monkeypatch.setattr(family, '_added', {})
  monkeypatch.setattr(family, '_reported', set())
  family._loaded.cache_clear()
  yield
  family._loaded.cache_clear()


@pytest.fixture
def define(monkeypatch):
  """Return a function that registers the family zap with other contents."""

  def define(**changed) -> None:
    module = types.ModuleType('zap_mod')
    vars(module).update({k: v for k, v in {**DEFINED, **changed}.items() if v is not None})
    monkeypatch.setitem(sys.modules, 'zap_mod', module)
    models.register('zap', 'zap_mod')

  return define


def one_line_of(error: pytest.ExceptionInfo) -> str:
  text = str(error.value)
  assert '\n' not in text
  return text


def test_a_complete_family_passes(define):
  define()
  assert models.config_type({'family': 'zap'}) is ZapConfig
  assert models.param_shapes(ZapConfig()) == {
    'stem/kernel': (3, 16),
    'head/kernel': (16, 4),
    'head/bias': (4,),
  }
  assert 'zap' in family.load_all()


@pytest.mark.parametrize('by_entry_point', [False, True])
def test_a_family_that_cannot_be_imported(by_entry_point, monkeypatch, caplog):
  if by_entry_point:
    point = importlib.metadata.EntryPoint('zap', 'nope_mod', family.ENTRY_POINTS)
    monkeypatch.setattr(importlib.metadata, 'entry_points', lambda group: [point])
    monkeypatch.setattr(family, '_from_entry_points', family._from_entry_points.__wrapped__)
  else:
    models.register('zap', 'nope_mod')
  with pytest.raises(UserError) as error:
    models.config_from({'family': 'zap'})
  assert one_line_of(error) == (
    "the model family 'zap' cannot be imported: module nope_mod: "
    "ModuleNotFoundError: No module named 'nope_mod'"
  )
  with caplog.at_level(logging.WARNING):
    assert set(family.load_all()) == {'mixer', 'resnet', 'vit'}
    family.load_all()
  assert [row.getMessage() for row in caplog.records] == [f'left out: {error.value}']


def test_an_error_inside_the_module_is_one_line(monkeypatch, tmp_path):
  (tmp_path / 'zap_broken.py').write_text("raise RuntimeError('first\\nsecond')")
  monkeypatch.syspath_prepend(tmp_path)
  models.register('zap', 'zap_broken')
  with pytest.raises(UserError) as error:
    family.load('zap')
  assert one_line_of(error).endswith('module zap_broken: RuntimeError: first second')


@pytest.mark.parametrize(
  ('name', 'module', 'message'),
  [
    ('', 'm', 'must be a text that is not empty'),
    (3, 'm', 'must be a text that is not empty'),
    ('zap', types, 'full name as a text, not the module types'),
    ('zap', None, 'full name as a text, not None'),
    ('zap', '', "full name as a text, not ''"),
    ('mixer', 'm', r'is mixer_jax\.models\.mixer already'),
  ],
)
def test_wrong_arguments_of_register(name, module, message):
  with pytest.raises(UserError, match=message):
    models.register(name, module)
  assert not family.added()


def test_a_name_that_is_taken():
  models.register('zap', 'one')
  models.register('zap', 'one')
  with pytest.raises(UserError, match="the model family 'zap' is one already"):
    models.register('zap', 'other')


def test_an_unknown_family_of_a_stored_config():
  with pytest.raises(UserError) as error:
    models.config_from({'family': 'tiny'})
  assert one_line_of(error) == (
    "model.family must be 'mixer', 'resnet' or 'vit', not 'tiny', which is not registered here: "
    'name a module that calls mixer_jax.register_family by --import=MODULE, or install a package '
    "with an entry point of 'mixer_jax.families'"
  )


without_dtype = dataclasses.make_dataclass(
  'WithoutDtype',
  [(f.name, f.type, f.default) for f in dataclasses.fields(ZapConfig) if f.name != 'dtype'],
  frozen=True,
)
mutable = dataclasses.make_dataclass('Mutable', ['family'], repr=False)


@pytest.mark.parametrize(
  ('changed', 'message'),
  [
    ({'NAME': None, 'run': None}, 'it does not define NAME, run'),
    ({'Config': dict}, "Config must be a frozen dataclass, not <class 'dict'>"),
    ({'Config': mutable}, f'Config must be a frozen dataclass, not {mutable!r}'),
    ({'ARCHITECTURE': 3}, 'ARCHITECTURE must be a tuple of names, not 3'),
    ({'Config': without_dtype}, "Config has no field 'dtype'"),
    (
      {
        'Config': dataclasses.make_dataclass(
          'Other', [('family', str, 'x')], bases=(ZapConfig,), frozen=True
        )
      },
      "Config.family is 'x' by default, but the family is registered as 'zap'",
    ),
    (
      {'SIZES': {'N': 'num_classes'}},
      "PARAMETERS['stem/kernel']: SIZES has no letter 'C' of its axes '3C'",
    ),
    (
      {'SIZES': {**DEFINED['SIZES'], 'D': 'depth'}},
      "SIZES['D']: Config has no field or property 'depth'",
    ),
    ({'SIZES': ['C']}, 'SIZES must be a mapping from letters'),
    (
      {'ARCHITECTURE': ('width', 'depth')},
      "ARCHITECTURE[1]: Config has no field or property 'depth'",
    ),
    ({'ARCHITECTURE': 'width'}, "ARCHITECTURE must be a tuple of names, not 'width'"),
    ({'SUMMARY': ('depth',)}, "SUMMARY[0]: Config has no field or property 'depth'"),
    (
      {'SPLIT': {'C': 'data'}},
      "SPLIT['C']: the axis of the mesh must be 'model' or 'fsdp', not 'data'",
    ),
    (
      {'PARAMETERS': {k: PARAMETERS[k] for k in ('stem/kernel', 'head/bias')}},
      "PARAMETERS has no row 'head/kernel'",
    ),
    (
      {'PARAMETERS': {k: PARAMETERS[k] for k in ('stem/kernel', 'head/kernel')}},
      "PARAMETERS has no row 'head/bias'",
    ),
    (
      {'PARAMETERS': ['head/kernel']},
      'PARAMETERS must be a mapping from names to Param, not a list',
    ),
    (
      {'PARAMETERS': {**PARAMETERS, 'stem/bias': 'C'}},
      "PARAMETERS['stem/bias'] must be a Param with a text of axes, not 'C'",
    ),
    (
      {'PARAMETERS': {**PARAMETERS, 'Zap_*/bias': Param('C')}},
      "PARAMETERS['Zap_*/bias'] is a row of blocks, but Config has no field or property num_blocks",
    ),
    ({'OPTIONAL': 'CZ'}, "OPTIONAL must be a text of letters of SIZES, not 'CZ'"),
    ({'STATE': {'mean': Param('Q')}}, "STATE['mean']: SIZES has no letter 'Q' of its axes 'Q'"),
    ({'STATE': [Param('C')]}, 'STATE must be a mapping from names to Param, not a list'),
  ],
)
def test_a_faulty_module_is_named(changed, message, define, caplog):
  define(**changed)
  with pytest.raises(UserError) as error:
    family.load('zap')
  assert one_line_of(error) == f"the model family 'zap' is faulty: module zap_mod: {message}"
  assert set(family.load_all()) == {'mixer', 'resnet', 'vit'}
  assert len(caplog.records) == 1


def test_letters_of_blocks_may_be_sizes_of_their_own(define):
  config = dataclasses.make_dataclass(
    'Blocks', [('num_blocks', int, 1)], bases=(ZapConfig,), frozen=True
  )
  table = {**PARAMETERS, 'Zap_*/bias': Param('H')}
  define(Config=config, PARAMETERS=table)
  with pytest.raises(UserError, match=r"PARAMETERS\['Zap_\*/bias'\]: SIZES has no letter 'H'"):
    family.load('zap')
  define(Config=config, PARAMETERS=table, block_sizes=lambda config, block: {'H': 2})
  assert models.param_shapes(config())['Zap_0/bias'] == (2,)


def test_a_family_without_keep_blocks_says_so(define):
  define()
  wanted = 'a Zap does not define keep_blocks: none of its blocks can be left out'
  with pytest.raises(UserError, match=wanted):
    models.capability(ZapConfig(), 'keep_blocks')
