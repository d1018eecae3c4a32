"""Latencies from times that are known."""

import jax
import pytest

import mixer_jax
from mixer_jax.analysis import latency
from mixer_jax.models import MixerConfig
from mixer_jax.models.depth import with_blocks


def test_models_take_turns_and_medians_are_of_the_rounds(monkeypatch):
  config = MixerConfig(8, 2, 8, 4, 8, image_size=16, num_classes=3)
  params = mixer_jax.init(config, jax.random.key(0))
  seconds, shapes = iter([1.0, 2.0, 2.0, 2.0, 4.0, 1.0]), []

  def timed(run):
    shapes.append(run().shape)
    return next(seconds)

  monkeypatch.setattr(latency, '_time', timed)
  mixers = [(config, params), with_blocks(config, params, [0])]
  found = latency.latencies(mixers, batch_size=5, rounds=3)
  assert found == [(2.0, 1.0), (2.0, 1.0)]  # the second's ratios are 2, 1 and 1/4
  assert shapes == [(5, 3)] * 6


def test_a_pass_takes_time():
  config = MixerConfig(8, 1, 8, 4, 8, image_size=16, num_classes=3)
  params = mixer_jax.init(config, jax.random.key(0))
  (found,) = latency.latencies([(config, params)], batch_size=1, rounds=2)
  assert found.seconds > 0
  assert found.ratio == pytest.approx(1)
