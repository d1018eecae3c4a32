"""All pairs of all models in one pass: the numbers of a pass for each pair of models."""

from typing import Any

import jax
import numpy as np
import pytest

from mixer_jax import models
from mixer_jax.analysis import cka, cka_all_pairs
from mixer_jax.analysis.hsic import Method
from mixer_jax.errors import UserError
from mixer_jax.parallel import mesh as meshes

SIZES: dict[str, Any] = {
  'patch_size': 4,
  'tokens_mlp_dim': 6,
  'channels_mlp_dim': 14,
  'image_size': 16,
}
ONE = models.MixerConfig(num_blocks=2, hidden_dim=10, num_classes=3, **SIZES)
OTHER = models.MixerConfig(num_blocks=1, hidden_dim=12, num_classes=5, **SIZES)
RUNS = [(ONE, 0, ('block_0', 'block_1')), (OTHER, 0, ('stem', 'block_0')), (ONE, 1, ('block_1',))]


@pytest.mark.parametrize(
  'method',
  [Method(estimator='feature-corrected'), Method('rbf', bandwidth=0.5)],
  ids=lambda m: m.kernel,
)
def test_every_block_of_the_matrix_is_the_cka_of_two_models(method):
  mesh = meshes.make_mesh(2, 2, 2)
  levels = np.random.default_rng(0).integers(0, 256, (2, 12, 16, 16, 3), np.uint8)
  masks = [np.ones(12, bool), np.arange(12) < 9]
  batches = [
    meshes.put(mesh, {'image': images, 'mask': mask})
    for images, mask in zip(levels, masks, strict=True)
  ]
  runs = [
    (c, meshes.put_replicated(mesh, models.init(c, jax.random.key(s))), n) for c, s, n in RUNS
  ]
  steps = [cka_all_pairs.make_grams_step(config, names, mesh, method) for config, _, names in runs]
  pairs, total = cka_all_pairs.make_pairs_step(mesh, method), cka.MinibatchCKA(5, 5, **vars(method))
  for batch in batches:
    total.add(
      pairs([step(params, batch) for step, (_, params, _) in zip(steps, runs, strict=True)])
    )
  found = total.result()

  (config_x, x, names_x), (config_y, y, names_y), _ = runs
  within = cka.make_cka_step(config_x, names_x, mesh, method)
  between = cka.make_cka_step(config_x, names_x, mesh, method, config_y=config_y, names_y=names_y)
  alone, two = (cka.MinibatchCKA(2, 2, **vars(method)) for _ in range(2))
  for batch in batches:
    alone.add(within(x, batch))
    two.add(between(x, batch, y))
  np.testing.assert_allclose(found[:2, :2], alone.result(), rtol=0, atol=1e-6)
  np.testing.assert_allclose(found[:2, 2:4], two.result(), rtol=0, atol=1e-6)
  np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-6)
  assert np.isfinite(found).all()


def test_unknown_layers_are_refused():
  mesh = meshes.make_mesh()
  with pytest.raises(UserError, match="no layer 'block_2' in this model"):
    cka_all_pairs.make_grams_step(ONE, ['block_2'], mesh, Method())
  with pytest.raises(UserError, match="not 'mean'"):
    cka_all_pairs.make_grams_step(ONE, ['block_1'], mesh, Method(), how='mean')
