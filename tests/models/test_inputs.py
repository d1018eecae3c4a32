"""Images of an evaluation batch -> input of a model."""

import dataclasses

import numpy as np

from mixer_jax import models

CONFIG = models.MixerConfig(4, 1, 8, 4, 8, image_size=8, num_classes=3)


def test_bytes_pass_and_levels_are_mapped():
  levels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
  assert models.as_input(CONFIG, levels) is levels
  unit = dataclasses.replace(CONFIG, input_range='[0, 1]')
  for config, wanted in ((CONFIG, levels / 127.5 - 1), (unit, levels / 255)):
    found = models.as_input(config, levels.astype(np.float32))
    np.testing.assert_allclose(found, wanted, rtol=1e-6, atol=1e-6)
