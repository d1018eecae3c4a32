"""Attention of a ViT against float64 NumPy, and where its distance is known."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.analysis import attention, position_embeddings
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes
from tests.helpers import golden_models
from tests.helpers.factories import random_params, tiny_mixer, tiny_vit

NAMES = ('vit_token', 'vit_gap')


def norm(params: dict, x: np.ndarray) -> np.ndarray:
  centred = x - x.mean(-1, keepdims=True)
  scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
  return scaled * params['scale'] + params['bias']


def softmax(x: np.ndarray) -> np.ndarray:
  e = np.exp(x - x.max(-1, keepdims=True))
  return e / e.sum(-1, keepdims=True)


def gelu(x: np.ndarray) -> np.ndarray:
  return x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def numpy_weights(config, params: dict, images: np.ndarray) -> list[np.ndarray]:
  """Attention weights of every block in float64, (B, heads, S, S), from images and params alone."""
  params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
  size, side = config.patch_size, config.image_size // config.patch_size
  patches = images.astype(np.float64).reshape(-1, side, size, side, size, 3)
  patches = patches.transpose(0, 1, 3, 2, 4, 5).reshape(len(images), side**2, -1)
  x = patches @ params['embedding']['kernel'].reshape(-1, config.hidden_dim)
  x += params['embedding']['bias']
  if 'cls' in params:
    x = np.concatenate([np.repeat(params['cls'], len(x), axis=0), x], axis=1)
  x += params['Transformer']['posembed_input']['pos_embedding']
  found = []
  for i in range(config.num_blocks):
    block = params['Transformer'][f'encoderblock_{i}']
    part = block['MultiHeadDotProductAttention_1']
    y = norm(block['LayerNorm_0'], x)
    q, k, v = (
      np.einsum('bsc,chd->bhsd', y, part[name]['kernel']) + part[name]['bias'][:, None]
      for name in ('query', 'key', 'value')
    )
    found.append(softmax(q @ k.swapaxes(2, 3) / math.sqrt(config.head_dim)))
    mixed = np.einsum('bhsd,hdc->bsc', found[-1] @ v, part['out']['kernel'])
    x = x + mixed + part['out']['bias']
    y = norm(block['LayerNorm_2'], x)
    first, second = block['MlpBlock_3']['Dense_0'], block['MlpBlock_3']['Dense_1']
    x = x + gelu(y @ first['kernel'] + first['bias']) @ second['kernel'] + second['bias']
  return found


def numpy_distance(config, weights: np.ndarray) -> np.ndarray:
  """Mean attention distance of each image and head, (B, heads), one pair of patches at a time."""
  side = config.image_size // config.patch_size
  weights = weights[:, :, -(side**2) :, -(side**2) :]
  total = np.zeros(weights.shape[:2])
  for query in range(side**2):
    moment = np.zeros_like(total)
    for key in range(side**2):
      rows, columns = query // side - key // side, query % side - key % side
      moment += weights[:, :, query, key] * config.patch_size * math.hypot(rows, columns)
    total += moment / weights[:, :, query].sum(-1)
  return total / side**2


@pytest.mark.parametrize('name', NAMES)
def test_weights_and_their_statistics_are_those_of_numpy(name):
  config, params, expected = golden_models.read(name)
  features = models.features(config, params, expected['images'])
  wanted = numpy_weights(config, params, expected['images'])
  assert np.ptp(wanted[0]) > 0.1  # far from uniform
  for block, weights in enumerate(wanted):
    found = models.capability(config, 'attention_weights')(config, features, block)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, weights, atol=2e-6)
    statistics = attention.attention_statistics(found, config.image_size)
    np.testing.assert_allclose(statistics['distance'], numpy_distance(config, weights), rtol=2e-5)
    if config.num_class_tokens:
      share = weights[:, :, 1:, 0].mean(-1)
      np.testing.assert_allclose(statistics['class_token_share'], share, atol=2e-6)
      np.testing.assert_allclose(statistics['class_token_map'], weights[:, :, 0, 1:], atol=2e-6)
    else:
      assert set(statistics) == {'distance'}


def test_batches_on_a_mesh_give_the_same_and_masked_images_do_not_count():
  config, params, _ = golden_models.read('vit_token')
  mesh = meshes.make_mesh(data=2, fsdp=2, model=2)
  levels = np.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), np.uint8)
  mask = np.arange(16) % 5 != 2
  step = attention.make_attention_step(config, mesh)
  batches = [{'image': levels[rows], 'mask': mask[rows]} for rows in (slice(0, 8), slice(8, 16))]
  found = attention.measure(step, meshes.put_replicated(mesh, params, config), batches, mesh)
  weights = np.stack(numpy_weights(config, params, levels[mask] / 127.5 - 1), axis=1)
  wanted = np.stack([numpy_distance(config, weights[:, i]) for i in range(3)], axis=1)
  np.testing.assert_allclose(found.distance, wanted, rtol=2e-5)
  assert found.class_token_share is not None
  assert found.class_token_map is not None
  np.testing.assert_allclose(found.class_token_share, weights[..., 1:, 0].mean(-1), atol=2e-6)
  maps = weights[..., 0, 1:].mean(0).reshape(3, 3, 4, 4)
  np.testing.assert_allclose(found.class_token_map, maps, atol=2e-6)


def with_queries(config, scale: float) -> dict:
  """Random params whose positions alone decide the attention: each is its own key, or none is."""
  params = random_params(config)
  side = config.image_size // config.patch_size
  params['embedding'] = jax.tree.map(np.zeros_like, params['embedding'])
  table = np.zeros_like(params['Transformer']['posembed_input']['pos_embedding'])
  table[0, -(side**2) :, : side**2] = np.eye(side**2)
  params['Transformer']['posembed_input']['pos_embedding'] = table
  for i in range(config.num_blocks):
    block = params['Transformer'][f'encoderblock_{i}']
    part = block['MultiHeadDotProductAttention_1']
    block['LayerNorm_0']['scale'] = np.ones_like(block['LayerNorm_0']['scale'])
    block['LayerNorm_0']['bias'] = np.zeros_like(block['LayerNorm_0']['bias'])
    for name in ('query', 'key'):
      eye = np.eye(config.hidden_dim, dtype=np.float32)[:, None]
      part[name] = {'kernel': scale * eye, 'bias': np.zeros_like(part[name]['bias'])}
    part['out'] = jax.tree.map(np.zeros_like, part['out'])
    block['MlpBlock_3'] = jax.tree.map(np.zeros_like, block['MlpBlock_3'])
  return params


@pytest.mark.parametrize('pooling', ['token', 'gap'])
def test_a_uniform_head_and_one_that_sees_only_itself(pooling):
  config = tiny_vit(num_heads=1, pooling=pooling)
  images = np.zeros((8, 16, 16, 3), np.uint8)
  mesh = meshes.make_mesh()
  step = attention.make_attention_step(config, mesh)
  batch = {'image': images, 'mask': np.ones(8, bool)}
  of = lambda scale: attention.measure(step, with_queries(config, scale), [batch], mesh)
  # A side of 4 patches of 4 pixels: two patches are d rows apart with probability
  # 4/16, 6/16, 4/16 and 2/16 for d = 0, 1, 2 and 3.
  chance = np.array([4, 6, 4, 2]) / 16
  mean = 4 * sum(chance[r] * chance[c] * math.hypot(r, c) for r in range(4) for c in range(4))
  np.testing.assert_allclose(of(0.0).distance, mean, rtol=1e-6)
  assert attention.uniform_distance(config) == pytest.approx(mean, rel=1e-6)
  np.testing.assert_allclose(of(30.0).distance, 0, atol=1e-6)
  found = of(0.0)
  for values in (found.class_token_share, found.class_token_map):
    assert (values is None) == (pooling == 'gap')
    assert values is None or np.allclose(values, 1 / 17, rtol=1e-6)


def test_a_query_that_sees_the_class_token_alone_counts_as_zero():
  weights = np.zeros((1, 1, 5, 5), np.float32)
  weights[..., 0] = 1
  weights[0, 0, 1] = [0.5, 0, 0.5, 0, 0]  # of the first patch, to the class token and its neighbour
  found = attention.attention_statistics(jnp.asarray(weights), image_size=20)
  np.testing.assert_allclose(found['distance'], [[10 / 4]])
  np.testing.assert_allclose(found['class_token_share'], [[3.5 / 4]])


def test_distances_are_those_between_centres():
  distances = attention.patch_distances(3, 12)
  assert distances.shape == (9, 9)
  np.testing.assert_allclose(distances[0], 4 * np.hypot(*np.mgrid[:3, :3].reshape(2, 9)), rtol=1e-6)
  np.testing.assert_array_equal(distances, distances.T)


def test_a_model_without_attention_is_refused():
  mesh = meshes.make_mesh()
  with pytest.raises(UserError, match='a Mixer has no attention: '):
    attention.make_attention_step(tiny_mixer(), mesh)
  with pytest.raises(UserError, match='a ResNet has no attention: '):
    attention.uniform_distance(models.ResNetConfig())


@pytest.mark.parametrize('name', NAMES)
def test_similarity_of_learned_positions(name):
  config, params, _ = golden_models.read(name)
  table = params['Transformer']['posembed_input']['pos_embedding'][0].astype(np.float64)
  table = table[config.num_class_tokens :]
  side = config.image_size // config.patch_size
  found = position_embeddings.similarity(config, params)
  assert found.shape == (side,) * 4
  for r, c, row, column in ((0, 0, 0, 0), (0, 1, side - 1, 0), (side - 1, 1, 1, side - 1)):
    one, other = table[r * side + c], table[row * side + column]
    cosine = one @ other / np.sqrt(one @ one * (other @ other))
    assert found[r, c, row, column] == pytest.approx(cosine, abs=1e-6)
  params['Transformer']['posembed_input']['pos_embedding'][:] = 0
  assert not position_embeddings.similarity(config, params).any()


def test_similarity_of_fixed_positions_depends_on_the_distance_alone():
  config = dataclasses.replace(tiny_vit(), position='sincos2d', pooling='gap', image_size=24)
  found = position_embeddings.similarity(config, {})
  np.testing.assert_allclose(found[1, 2, :4, :4], found[2, 4, 1:5, 2:], atol=1e-6)
  np.testing.assert_allclose(np.einsum('rcrc->rc', found), 1, atol=1e-6)
  # Half of the products depend on columns: cos 1 and cos 10⁻⁴·⁽ⁱ⁾ of their distance.
  rates = 10_000.0 ** -(np.arange(4) / 3)
  assert found[0, 0, 0, 3] == pytest.approx((np.cos(3 * rates).mean() + 1) / 2, abs=1e-6)
  with pytest.raises(UserError, match='a Mixer has no position embeddings'):
    position_embeddings.similarity(tiny_mixer(), {})
