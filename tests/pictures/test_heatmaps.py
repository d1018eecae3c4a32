"""Heatmaps: also of matrices in which there is nothing to mark."""

import io

import numpy as np
import pytest
from PIL import Image

from mixer_jax.pictures.heatmaps import Panel, heatmap, heatmaps

NAMES = ['block_0', 'block_1']
AXES = ('one', 'other')


@pytest.mark.parametrize('marked', [None, (1, 0), (-1, 1), (-1, -1)])
def test_layers_without_a_nearest_get_no_ring(marked):
  values = np.full((2, 2), np.nan)
  whole = heatmap(values, NAMES, NAMES, 'CKA', AXES, marked=marked)
  panels = heatmaps([Panel(values, 'none', AXES, marked)], 'a title\nof two lines')
  for png in (whole, panels):
    with Image.open(io.BytesIO(png)) as picture:
      assert min(picture.size) > 250
