"""Latency of forward passes of several models, compared on one device."""

import statistics
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np

from mixer_jax import models
from mixer_jax.bench import measure
from mixer_jax.models import ModelConfig


class Latency(NamedTuple):
  """Latency of one model."""

  seconds: float
  """Median over the rounds."""
  ratio: float
  """Median over the rounds of its seconds divided by those of the first model."""


def latencies(
  timed: Sequence[tuple[ModelConfig, dict]], *, batch_size: int, rounds: int
) -> list[Latency]:
  """Measure the seconds of a forward pass of each model.

  The models take turns in every round, so that other load on the machine affects all alike.

  Args:
    timed: models, and their params on one device; they may share arrays.
    batch_size: images per pass, uint8 noise.
    rounds: timed passes of each model, after one that compiles.
  """
  works = {
    str(index): _forward(config, params, batch_size) for index, (config, params) in enumerate(timed)
  }
  seconds = list(measure.interleaved(works, rounds).values())
  return [Latency(statistics.median(own), measure.ratio(own, seconds[0])) for own in seconds]


def _forward(config: ModelConfig, params: dict, batch_size: int) -> measure.Work:
  shape = (batch_size, config.image_size, config.image_size, 3)
  noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
  images = jax.device_put(noise, jax.tree.leaves(params)[0].sharding)
  forward = jax.jit(lambda params, images: models.apply(config, params, images))
  return lambda: jax.block_until_ready(forward(params, images))
