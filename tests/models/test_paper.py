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
