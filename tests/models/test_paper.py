"""The paper's published figures, against the models' operations and each other."""

import dataclasses

import pytest

from mixer_jax import models
from mixer_jax.models import paper

PEAK = 61.5e12  # bfloat16 FLOP/s of a TPU-v3 core, as Google documents it


@pytest.mark.parametrize('row', paper.PUBLISHED, ids=lambda row: '-'.join(map(str, row[:5])))
def test_a_rate_is_one_that_the_hardware_can_reach(row):
  _, config = models.find_variant(row.variant)
  flops = models.forward_flops(dataclasses.replace(config, image_size=row.size))
  assert 0.2 < row.images_per_second * flops / PEAK < 0.8
  at_224 = models.forward_flops(config)
  days = 3 * at_224 * row.epochs * paper.IMAGES[row.data] / PEAK / 86_400
  # The paper rounds to tens, and 10 may be 5; small models do not fill a core.
  assert 0.1 * row.core_days < days < 0.75 * (row.core_days + 5)


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
