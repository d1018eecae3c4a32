"""Latencies from times that are known."""

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.bench import latency
from mixer_jax.models import MixerConfig
from mixer_jax.models.depth import with_blocks


def test_models_take_turns_and_medians_are_of_the_rounds(monkeypatch):
  config = MixerConfig(8, 2, 8, 4, 8, image_size=16, num_classes=3)
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.shapes(config))
  params = jax.device_put(params, jax.devices()[0])
  seconds, shapes = iter([1.0, 2.0, 2.0, 2.0, 4.0, 1.0]), []

  def timed(run):
    shapes.append(run().shape)
    return next(seconds)

  monkeypatch.setattr(latency, '_time', timed)
  mixers = [(config, params), with_blocks(config, params, [0])]
  found = latency.latencies(mixers, batch_size=5, rounds=3)
  assert found == [(2.0, 1.0), (2.0, 1.0)]  # the second's ratios are 2, 1 and 1/4
  assert shapes == [(5, 3)] * 6
