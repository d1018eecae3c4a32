"""Tampered metadata of a state is named in one line, before anything of it is used or shown."""

import json
import time

import pytest

import mixer_jax
from mixer_jax.checkpoints import state_files, state_metadata
from mixer_jax.checkpoints.load import read
from mixer_jax.checkpoints.state_metadata import DamagedError
from mixer_jax.checkpoints.store import Store
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from tests.checkpoints.test_store import CONFIG, abstract, parts

METADATA = {
  'model': CONFIG.__dict__,
  'data': 'digits',
  'classes': list('abcde'),
  'eval_recipe': 'resize',
  'eval_crop_fraction': 0.875,
  'standing': {'step': 10, 'best_step': 10, 'best': 0.5, 'stale': 0},
  'origin': {'checkpoint': 'a.npz', 'blocks': [0, 1]},
}


@pytest.fixture(scope='module')
def store(tmp_path_factory):
  """A store with one state."""
  store = Store(tmp_path_factory.mktemp('run'), keep=3)
  store.save(10, parts(meshes.make_mesh(), 1), METADATA)
  store.wait()
  return store


@pytest.fixture(scope='module')
def text(store) -> str:
  """Return the text of the state's metadata, as it was saved."""
  return (store.directory / '10' / state_files.METADATA).read_text()


def deep(levels: int) -> list:
  value: list = []
  for _ in range(levels):
    value = [value]
  return value


FIELDS = {
  'no digests': {'digests': ...},
  'digests null': {'digests': None},
  'digests a list': {'digests': []},
  'digests a text': {'digests': 'x'},
  'digests of other arrays': {'digests': {'params/x': 1}},
  'digests of texts': {'digests': {'params/head/bias': '1'}},
  'digests empty': {'digests': {}},
  'digests negative': {'digests': {'params/head/bias': -1}},
  'no step': {'step': ...},
  'step a text': {'step': '10'},
  'step null': {'step': None},
  'step a list': {'step': [10]},
  'step negative': {'step': -10},
  'step true': {'step': True},
  'step of another state': {'step': 30},
  'best step a text': {'best_step': 'x'},
  'best step a list': {'best_step': [1]},
  'no model': {'model': ...},
  'model null': {'model': None},
  'model a list': {'model': [1]},
  'model empty': {'model': {}},
  'family a list': {'model': {'family': [1]}},
  'family null': {'model': {'family': None}},
  'classes null': {'classes': None},
  'classes a text': {'classes': 'abcde'},
  'classes of numbers': {'classes': [1, 2, 3, 4, 5]},
  'classes too few': {'classes': ['a']},
  'data a number': {'data': 1},
  'recipe a list': {'eval_recipe': []},
  'crop a text': {'eval_crop_fraction': 'x'},
  'config a list': {'config': []},
  'standing empty': {'standing': {}},
  'standing a list': {'standing': []},
  'standing of texts': {'standing': dict.fromkeys(METADATA['standing'], 'x')},
  'origin a text': {'origin': 'x'},
  'origin without blocks': {'origin': {'checkpoint': 'x'}},
  'origin of texts': {'origin': {'checkpoint': 'x', 'blocks': ['x']}},
}
MODEL = {
  'an unknown field': {'depth': 3},
  'a billion blocks': {'num_blocks': 10**9},
  'more blocks': {'num_blocks': 2},
  'no blocks': {'num_blocks': 0},
  'blocks a text': {'num_blocks': '1'},
  'blocks true': {'num_blocks': True},
  'blocks a fraction': {'num_blocks': 1.5},
  'other channels': {'hidden_dim': 65},
  'huge channels': {'hidden_dim': 10**12},
  'huge image': {'image_size': 4 * 10**12},
  'an image of another size': {'image_size': 32},
  'an image that is no multiple': {'image_size': 7},
  'other classes': {'num_classes': 6},
  'huge classes': {'num_classes': 10**15},
  'no patch': {'patch_size': 0},
  'no field of its own': {'patch_size': ...},
  'gelu': {'gelu': 'x'},
  'input range': {'input_range': 'x'},
  'dtype': {'dtype': 'x'},
  'bias': {'head_bias': 'x'},
}
RESNETS = ['3,4,6,3', '999999999999', '9' * 5000, '1,' * 10_000 + '1', '']


def tampered(text: str, changes: dict) -> bytes:
  """Return the file with other fields, and a checksum that fits them."""
  file = json.loads(text)
  metadata = {**file['custom_metadata'], **changes}
  metadata = {k: v for k, v in metadata.items() if v is not ... and k != 'checksum'}
  metadata['checksum'] = state_metadata.checksum(metadata)
  return json.dumps({**file, 'custom_metadata': metadata}).encode()


def refused(store, text: str, data: bytes) -> str:
  """Return the error of reading the state with this file."""
  file = store.directory / '10' / state_files.METADATA
  file.write_bytes(data)
  try:
    started = time.monotonic()
    with pytest.raises(UserError) as error:
      read(file.parent)
    assert time.monotonic() - started < 5
  finally:
    file.write_text(text)
  assert '\n' not in str(error.value)
  assert str(file.parent) in str(error.value)
  return str(error.value)


@pytest.mark.parametrize('name', FIELDS)
def test_a_tampered_field_is_damage(store, text, name):
  data = tampered(text, FIELDS[name])
  assert '10 is damaged (' in refused(store, text, data)


@pytest.mark.parametrize('name', MODEL)
def test_a_model_that_the_arrays_are_not_of_is_damage(store, text, name):
  fields = {k: v for k, v in {**CONFIG.__dict__, **MODEL[name]}.items() if v is not ...}
  assert '10 is damaged (' in refused(store, text, tampered(text, {'model': fields, 'classes': []}))


@pytest.mark.parametrize('stages', RESNETS)
def test_a_model_of_another_family_is_damage(store, text, stages):
  model = {'family': 'resnet', 'stages': stages, 'num_classes': 5}
  assert '10 is damaged (' in refused(store, text, tampered(text, {'model': model}))


def test_a_family_that_is_not_installed_is_named(store, text):
  said = refused(store, text, tampered(text, {'model': {'family': 'cnn'}}))
  assert "not 'cnn', which is not registered here" in said


TEXTS = {
  'empty': b'',
  'cut': b'{"custom_metadata": {',
  'a list': b'[]',
  'null': b'null',
  'a number': b'1',
  'no object in it': b'{"custom_metadata": []}',
  'deep': b'{"custom_metadata": ' + b'[' * 100_000 + b']' * 100_000 + b'}',
  'a long number': b'{"custom_metadata": {"step": ' + b'9' * 10_000 + b'}}',
  'bytes that are no text': b'{"custom_metadata": "\xff\xfe"}',
  'zeros': bytes(1000),
}


@pytest.mark.parametrize('name', TEXTS)
def test_a_text_that_is_no_metadata_is_damage(store, text, name):
  assert '10 is damaged (' in refused(store, text, TEXTS[name])


def test_metadata_without_end_is_not_read(store, text, monkeypatch):
  monkeypatch.setattr(state_files, '_LONGEST', 2**20)
  assert 'is longer than 1 MiB' in refused(store, text, b' ' * 2**20 + text.encode())


def test_deep_values_are_damage(text):
  with pytest.raises(DamagedError):
    state_metadata.parse(tampered(text, {'classes': deep(400)}), '10')


def test_the_state_as_it_was_saved_is_accepted(store):
  assert read(store.directory / '10').metadata['data'] == 'digits'
  assert mixer_jax.load(store.directory.parent)[0] == CONFIG
  restored = store.restore(abstract(meshes.make_mesh()))
  assert restored is not None
  assert restored[0] == 10
