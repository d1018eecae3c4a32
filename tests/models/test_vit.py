"""The ViT against the authors' numbers, and its own promises."""

import dataclasses

import jax
import numpy as np
import pytest

import mixer_jax
from mixer_jax import ViTConfig, models
from mixer_jax.errors import UserError
from mixer_jax.models import vit
from mixer_jax.models.parameters import flatten
from mixer_jax.models.resolution import grow
from tests.helpers import factories, golden_models

NAMES = ('vit_token', 'vit_gap', 'vit_representation')


@pytest.mark.parametrize('name', NAMES)
def test_logits_and_blocks_equal_the_reference(name):
  config, params, expected = golden_models.read(name)
  seen = mixer_jax.features(config, params, expected['images'])
  for feature in ('stem', *(f'block_{i}' for i in range(config.num_blocks)), 'logits'):
    np.testing.assert_allclose(seen[feature], expected[feature], atol=1e-5, rtol=0, err_msg=feature)
  # The file has the output of the representation layer before its tanh.
  layer = np.tanh if config.representation_size else lambda x: x
  np.testing.assert_allclose(seen['pre_logits'], layer(expected['pre_logits']), atol=1e-5, rtol=0)


@pytest.mark.parametrize('name', NAMES)
def test_gradients_equal_the_reference(name):
  golden_models.check_gradients(*golden_models.read(name))


def test_exact_gelu_equals_timm():
  config, params, expected = golden_models.read('vit_token')
  logits = mixer_jax.apply(dataclasses.replace(config, gelu='erf'), params, expected['images'])
  np.testing.assert_allclose(logits, expected['logits_erf'], atol=1e-5, rtol=0)


COUNTS = {  # parameters with 1000 classes and GFLOP of a forward pass, by the authors' code
  'ViT-Ti/16': (5_717_416, 2.507),
  'ViT-S/32': (22_878_952, 2.286),
  'ViT-S/16': (22_050_664, 9.198),
  'ViT-B/32': (88_224_232, 8.818),
  'ViT-B/16': (86_567_656, 35.128),
  'ViT-B/8': (86_576_872, 156.297),
  'ViT-L/32': (306_535_400, 30.755),
  'ViT-L/16': (304_326_632, 123.109),
  'ViT-H/14': (632_045_800, 334.590),
}


@pytest.mark.parametrize('name', vit.VARIANTS)
def test_parameter_counts_and_flops(name):
  config = models.VARIANTS[name]
  assert models.num_params(config) == COUNTS[name][0]
  assert models.forward_flops(config) / 1e9 == pytest.approx(COUNTS[name][1], abs=6e-4)
  assert models.variant_of(config) == name


@pytest.mark.parametrize(('name', 'count'), [('S/32', 22_878_184), ('B/16', 86_566_120)])
def test_a_mean_over_tokens_has_no_class_token(name, count):
  config = dataclasses.replace(models.VARIANTS[f'ViT-{name}'], pooling='gap')
  assert models.num_params(config) == count


def test_positions_are_resized_as_the_authors_do():
  with np.load(golden_models.DATA / 'posemb.npz') as file:
    tables = dict(file)
  for pooling, before, after in (('token', 4, 6), ('token', 4, 3), ('gap', 4, 7)):
    config = factories.tiny_vit(patch_size=2, image_size=2 * before, hidden_dim=8, pooling=pooling)
    params = factories.random_params(config)
    params['Transformer']['posembed_input']['pos_embedding'] = tables[
      f'{pooling}_{before}x{before}'
    ]
    larger, grown = grow(config, params, 2 * after)
    assert models.num_params(larger) == sum(x.size for x in jax.tree.leaves(grown))
    found = grown['Transformer']['posembed_input']['pos_embedding']
    np.testing.assert_allclose(found, tables[f'{pooling}_{after}x{after}'], atol=1e-6, rtol=0)


@pytest.mark.parametrize(
  ('fields', 'message'),
  [
    ({'num_heads': 3}, 'model.hidden_dim 16 cannot be shared by model.num_heads=3: take 2 or 4'),
    ({'image_size': 18}, 'model.image_size 18 is not a multiple of model.patch_size 4'),
    ({'pooling': 'mean'}, "model.pooling must be 'token', 'gap' or 'map', not 'mean'"),
    ({'position': 'none'}, "model.position must be 'learned' or 'sincos2d', not 'none'"),
    ({'gelu': 'exact'}, "model.gelu must be 'tanh' or 'erf', not 'exact'"),
    ({'representation_size': -1}, 'model.representation_size must be a whole number, 0 or more'),
    ({'position': 'sincos2d', 'hidden_dim': 18, 'num_heads': 2}, 'a multiple of 4'),
    ({'dropout': 1.0}, r'model.dropout must be in \[0, 1\)'),
    ({'family': 'mixer'}, "of the family vit, not 'mixer'"),
  ],
)
def test_bad_fields_are_refused(fields, message):
  with pytest.raises(UserError, match=message):
    factories.tiny_vit(**fields)


def test_a_new_head_drops_the_representation_layer():
  config, params, _ = golden_models.read('vit_representation')
  new, fresh = models.with_zero_head(config, params, 3)
  assert (new.num_classes, new.representation_size) == (3, 0)
  assert fresh['head']['kernel'].shape == (16, 3)
  assert flatten(fresh).keys() == flatten(models.shapes(new)).keys()


def test_a_config_that_is_written_down_is_read_back():
  config = ViTConfig(16, 2, 32, 64, 4, pooling='map', position='sincos2d')
  assert models.config_from(dataclasses.asdict(config)) == config


def test_a_file_without_positions_is_read_with_a_warning(tmp_path, caplog):
  config = factories.tiny_vit(pooling='gap', position='sincos2d', image_size=16)
  mixer_jax.save(tmp_path / 'w.npz', config, factories.random_params(config))
  found, _ = mixer_jax.load(tmp_path / 'w.npz')
  assert (found.position, found.image_size) == ('sincos2d', 224)
  assert 'no position embeddings: they are taken as fixed (sincos2d), at 224 px' in caplog.text
