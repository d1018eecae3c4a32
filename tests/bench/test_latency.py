"""Latencies from a clock that is simulated."""

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.bench import latency, measure
from mixer_jax.models import MixerConfig
from mixer_jax.models.depth import with_blocks


def test_models_take_turns_and_medians_are_over_rounds(monkeypatch):
  config = MixerConfig(8, 2, 8, 4, 8, image_size=16, num_classes=3)
  params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), models.shapes(config))
  params = jax.device_put(params, jax.devices()[0])
  seconds = [9.0, 9.0, 1.0, 2.0, 2.0, 2.0, 4.0, 1.0]  # the first round warms up
  clock = iter([time for value in seconds for time in (0.0, value)])
  monkeypatch.setattr(measure.time, 'perf_counter', lambda: next(clock))
  mixers = [(config, params), with_blocks(config, params, [0])]
  found = latency.latencies(mixers, batch_size=5, rounds=3)
  assert found == [(2.0, 1.0), (2.0, 1.0)]  # the ratios of the second are 2, 1 and 1/4
