"""The figures of the paper against the FLOPs of the models and the peak of a TPU v3 core."""

import dataclasses

import pytest

from mixer_jax import models
from mixer_jax.models import paper

PEAK = 61.5e12
"""FLOP/s of a core."""


@pytest.mark.parametrize('row', paper.PUBLISHED, ids=lambda r: f'{r.variant}, {r.data}, {r.size}')
def test_every_row_is_of_a_variant_and_within_the_peak(row):
  model = models.VARIANTS[row.variant]
  used = row.images_per_second * models.forward_flops(_at(model, row.size))
  assert 0.1 * PEAK < used < PEAK
  images = row.epochs * paper.IMAGES[row.data]
  used = 3 * models.forward_flops(model) * images / (row.core_days * 86_400)
  assert 0.05 * PEAK < used < PEAK
  assert paper.core_days(model, row.data, images) == row.core_days


def _at(model, size: int):
  if models.has_capability(model, 'token_mixing'):  # its token MLP grows with the image
    factor = size // model.image_size
    return dataclasses.replace(
      model, image_size=size, tokens_mlp_dim=model.tokens_mlp_dim * factor**2
    )
  return dataclasses.replace(model, image_size=size)


def test_rows_of_the_same_model_agree():
  for row in paper.PUBLISHED:
    for other in paper.published(row.variant, None):
      assert other.size != row.size or other.images_per_second == row.images_per_second
      if other[:3] == row[:3]:
        assert other.core_days == row.core_days


@pytest.mark.parametrize(
  ('variant', 'data', 'epochs', 'days', 'table'),
  [
    ('ViT-H/14', 'jft300m', 14, 2300, 3),
    ('ViT-L/16', 'jft300m', 14, 650, 3),
    ('ViT-L/16', 'imagenet21k', 300, 550, 3),
    ('ViT-L/16', 'imagenet21k', 90, 180, 2),
    ('BiT-R152x4', 'jft300m', 40, 9900, 2),
    ('BiT-R152x4', 'imagenet21k', 90, 940, 2),
  ],
)
def test_a_run_is_found_by_its_model_data_and_images(variant, data, epochs, days, table):
  _, config = models.find_variant(variant)
  config = dataclasses.replace(config, num_classes=21, dtype='bfloat16')
  images = round(0.99 * epochs * paper.IMAGES[data])
  row = paper.run_of(config, data, images)
  assert row is not None
  assert (row.core_days, row.table) == (days, table)
  assert paper.core_days(config, data, images) == days
  assert paper.core_days(config, data, images // 2) is None
  assert paper.core_days(dataclasses.replace(config, image_size=448), data, images) is None
